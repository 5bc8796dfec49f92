package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Plan is the addresses of one node. Everything lies in a /16 of its own:
// the link to the host, the pods and the services.
type Plan struct {
	Index int
	Link  string // name of the host's end of the veth pair
}

const firstNet = 201 // 10.201.0.0/16 is the range of index 0

func (p Plan) addr(c, d byte) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(firstNet + p.Index), c, d})
}

// Range holds all addresses of the node, its pods and its services.
func (p Plan) Range() netip.Prefix { return netip.PrefixFrom(p.addr(0, 0), 16) }

// Host is the host's address on the link.
func (p Plan) Host() netip.Addr { return p.addr(0, 1) }

// Node is the node's address, on which its API server listens.
func (p Plan) Node() netip.Addr { return p.addr(0, 2) }

// Pods is the range of all pods; PodsHere that of this node's.
func (p Plan) Pods() netip.Prefix { return netip.PrefixFrom(p.addr(64, 0), 18) }

// PodsHere is the part of Pods that the one node hands out.
func (p Plan) PodsHere() netip.Prefix { return netip.PrefixFrom(p.addr(64, 0), 24) }

// Services is the range of ClusterIPs.
func (p Plan) Services() netip.Prefix { return netip.PrefixFrom(p.addr(192, 0), 18) }

// DNS is the ClusterIP of the cluster's name server.
func (p Plan) DNS() netip.Addr { return p.addr(192, 10) }

// APIService is the ClusterIP of the API server.
func (p Plan) APIService() netip.Addr { return p.addr(192, 1) }

// Free says whether nothing on this host uses the plan's range yet.
func (p Plan) Free() bool {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		// A default route, or a wide private one, is no conflict: the node's is narrower.
		if ok && ones >= 12 && p.Range().Overlaps(netip.PrefixFrom(addr, ones)) {
			return false
		}
	}
	return true
}

// connect links the host with the network namespace of a process. The pair goes
// away by itself with the namespace, and with it the host's address and route.
//
// The node has no way off the machine: its default route leads to a bridge that has
// no port. (A route there must be, or packets to a ClusterIP are refused before
// kube-proxy's rules see them.) The host's route to the whole range sends answers to
// pods back into the node, not out of the host's own default route.
func (p Plan) connect(pid int) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: p.Link},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("this kernel has no veth devices, which a node needs: %w", err)
		}
		return fmt.Errorf("adding the link %s: %w", p.Link, err)
	}
	root, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := configure(root, p.Link, p.Host()); err != nil {
		return err
	}
	link, err := root.LinkByName(p.Link)
	if err != nil {
		return err
	}
	if err := root.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p.Range()), Gw: p.Node().AsSlice(), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
		return fmt.Errorf("adding the route to %s: %w", p.Range(), err)
	}

	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	if err := configure(inside, "lo", netip.Addr{}); err != nil {
		return err
	}
	if err := configure(inside, "eth0", p.Node()); err != nil {
		return err
	}
	if err := inside.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "sink"}}); err != nil {
		return fmt.Errorf("adding the bridge sink (has the kernel bridges?): %w", err)
	}
	if err := configure(inside, "sink", netip.Addr{}); err != nil {
		return err
	}
	sink, err := inside.LinkByName("sink")
	if err != nil {
		return err
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: sink.Attrs().Index, Dst: ipNet(everywhere), Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("adding the node's default route: %w", err)
	}
	return nil
}

// configure gives a device its address, if it is to have one, and sets it up.
func configure(h *netlink.Handle, name string, addr netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding the device %s: %w", name, err)
	}
	if addr.IsValid() {
		a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, 30))}
		if err := h.AddrAdd(link, a); err != nil {
			return fmt.Errorf("giving %s to the device %s: %w", addr, name, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting the device %s up: %w", name, err)
	}
	return nil
}

// disconnect removes the link if it is still there. The kernel takes it away itself
// some time after the node's last process, so both may happen at once.
func (p Plan) disconnect(ctx context.Context) error {
	return retry(ctx, func() error {
		link, err := netlink.LinkByName(p.Link)
		if err != nil {
			var missing netlink.LinkNotFoundError
			if errors.As(err, &missing) {
				return nil
			}
			return err
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("removing the link %s: %w", p.Link, err)
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
