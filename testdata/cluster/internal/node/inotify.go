package node

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// inotifyNeeded is how many inotify instances a node takes: its systemd, kubelet, containerd
// and the control plane had 22 to 26 of them.
const inotifyNeeded = 32

const inotifyLimit = "/proc/sys/fs/inotify/max_user_instances"

// RoomForInotify tells whether the kernel has as many inotify instances left for this user as
// another node takes (inotify(7)). Without them systemd ends as soon as it has begun, and
// kubelets wait for ever, neither with a word of it.
func RoomForInotify() error { return roomForInotify(inotifyNeeded) }

func roomForInotify(needed int) error {
	var taken []int
	defer func() {
		for _, fd := range taken {
			_ = unix.Close(fd)
		}
	}()
	for len(taken) < needed {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if errors.Is(err, unix.EMFILE) {
			limit, _ := os.ReadFile(inotifyLimit)
			return fmt.Errorf("a node takes about %d inotify instances, and %d are left of the %s that a user may have: take other clusters down, or allow more (sysctl fs.inotify.max_user_instances=512)",
				needed, len(taken), strings.TrimSpace(string(limit)))
		}
		if err != nil {
			return fmt.Errorf("trying inotify: %w", err)
		}
		taken = append(taken, fd)
	}
	return nil
}
