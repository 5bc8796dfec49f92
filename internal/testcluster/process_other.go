//go:build !unix

package testcluster

import (
	"os"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

func quit(p *os.Process) error { return p.Kill() }

// tryLock has no other to fear: the tests that edit shared sources run on Linux.
func tryLock(*os.File) (bool, error) { return true, nil }
