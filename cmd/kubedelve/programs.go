package main

import (
	"errors"
	"sync"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/internal/debuginfo"
)

// keptPrograms is how many programs are kept open: that of the run, that of the
// next one, and one that a request may still be about.
const keptPrograms = 3

// programs are what this machine knows of a session's binaries. The zero value is
// ready for use; its methods may be called from any goroutine.
type programs struct {
	mu     sync.Mutex
	closed bool
	all    []knownProgram                   // the newest last
	rules  map[string][]buildflags.PathRule // of all that were added, by hash
}

type knownProgram struct {
	sha256  string
	program *debuginfo.Program
}

// add opens what has just been built, before the next build takes its place. A file
// that can't be opened is no reason not to debug it: it is only not known then.
func (p *programs) add(binary *buildflags.Binary) {
	p.mu.Lock()
	if p.rules == nil {
		p.rules = map[string][]buildflags.PathRule{}
	}
	p.rules[binary.SHA256] = binary.Sources
	p.mu.Unlock()
	program, err := debuginfo.Open(binary.Path)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.find(binary.SHA256) != nil {
		_ = program.Close()
		return
	}
	p.all = append(p.all, knownProgram{binary.SHA256, program})
	if len(p.all) > keptPrograms {
		_ = p.all[0].program.Close()
		p.all = p.all[1:]
	}
}

// of returns the program with the given hash, nil if it is not known.
func (p *programs) of(sha256 string) dapserver.Program {
	p.mu.Lock()
	defer p.mu.Unlock()
	if program := p.find(sha256); program != nil {
		return program
	}
	return nil
}

// sources returns the path rules of the binary with the given hash.
func (p *programs) sources(sha256 string) []buildflags.PathRule {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rules[sha256]
}

// find is called with the lock held.
func (p *programs) find(sha256 string) *debuginfo.Program {
	for i := range p.all {
		if p.all[i].sha256 == sha256 {
			return p.all[i].program
		}
	}
	return nil
}

// close closes all programs. None is known afterwards.
func (p *programs) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var err error
	for _, k := range p.all {
		err = errors.Join(err, k.program.Close())
	}
	p.all = nil
	return err
}
