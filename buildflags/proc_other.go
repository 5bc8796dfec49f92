//go:build !unix

package buildflags

import (
	"os/exec"
	"strconv"
	"time"
)

// killGroup makes cmd end with all its children when its context ends.
func killGroup(cmd *exec.Cmd) {
	cmd.Cancel = func() error {
		if err := exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(cmd.Process.Pid)).Run(); err != nil {
			return cmd.Process.Kill()
		}
		return nil
	}
}

// awaitGroup does nothing: taskkill has waited.
func awaitGroup(*exec.Cmd, time.Duration) {}
