//go:build !unix

package testcluster

import (
	"os"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

func quit(p *os.Process) error { return p.Kill() }
