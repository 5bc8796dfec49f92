package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// swapPatience is how long a component may take to listen that has come in the place
// of one that did, while its container stays ready: a pod that is not ready loses its
// traffic, and gets it back seconds after it is ready again.
const swapPatience = 30 * time.Second

// Ready is the readiness probe of a container whose agent has the folder dir and
// whose component serves ports: nil once the component has begun to listen on one
// of them, and from then on, also while it is halted at a breakpoint or another one
// is loaded. When it has ended or was replaced, the next one has to listen before
// swapPatience is over. Without ports it is nil once a component has been started.
func Ready(dir string, ports []int) error {
	d := layout(dir)
	if exists(d.ready()) {
		return nil
	}
	if len(ports) == 0 {
		if !exists(d.started()) {
			return errors.New("no component has been started")
		}
		return mark(d.ready())
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue // no IPv6
		}
		found := listens(f, ports)
		_ = f.Close()
		if found {
			return mark(d.ready())
		}
	}
	if swapped, err := os.Stat(d.swapped()); err == nil && time.Since(swapped.ModTime()) < swapPatience {
		return nil
	}
	return fmt.Errorf("nothing listens on port %v yet", ports)
}

// begun says that a component has been started.
func (d layout) begun() error { return errors.Join(d.silent(), mark(d.started())) }

// silent says that the component that may have listened is gone.
func (d layout) silent() error {
	if !exists(d.ready()) {
		return nil
	}
	// The probe must never see neither marker.
	return errors.Join(mark(d.swapped()), d.clear(d.ready()))
}

// listens reads a table of the format of /proc/net/tcp (proc_net(5)) and tells
// whether a socket listens on one of the ports.
func listens(table io.Reader, ports []int) bool {
	const stateListen = "0A"
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != stateListen {
			continue
		}
		_, hex, ok := strings.Cut(fields[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if ok && err == nil && slices.Contains(ports, int(port)) {
			return true
		}
	}
	return false
}
