package debuginfo

import (
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
)

// Program is an executable. Its methods may be called from any goroutine. Those
// that take a context may wait for the index, which takes the better part of a
// second for a big program; they return when the context ends.
type Program struct {
	file  io.ReaderAt
	size  int64 // of file, in bytes
	close func() error
	build *debug.BuildInfo

	start   sync.Once
	indexed chan struct{} // closed when index and indexErr are set
	closed  chan struct{} // closed by Close
	index   *index
	err     error // why there is no index

	closeOnce sync.Once
	closeErr  error
}

// index is all that is kept in memory of a program.
type index struct {
	order binary.ByteOrder
	// The sections are read when they are needed, unless they are compressed.
	info, line section
	tables     tables

	units   []unit
	files   map[string][]int32 // by name: the units with lines of the file, by their place in units
	sources []string           // the keys of files, sorted
	symbols symbols
	dirs    map[string]string // of modules, by path
}

// Open opens the executable at path, an ELF file that the go command has built. The
// caller closes it. The file may be replaced by another meanwhile, but not be
// written to: what was opened stays what is read.
func Open(path string) (*Program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading debugging information: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	var p *Program
	if err == nil {
		p, err = open(f, st.Size(), f.Close)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("reading debugging information of %s: %w", path, err)
	}
	return p, nil
}

// open is Open for a file of size bytes.
func open(r io.ReaderAt, size int64, closeFile func() error) (p *Program, err error) {
	defer recovered(&err)
	build, err := buildinfo.Read(r)
	if err != nil {
		return nil, err
	}
	return &Program{
		file: r, size: size, close: closeFile, build: build,
		indexed: make(chan struct{}), closed: make(chan struct{}),
	}, nil
}

// recovered, deferred, makes an error of a panic: the readers of the standard
// library have panicked on damaged files before.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("damaged debugging information: %v", p)
	}
}

// Close lets go of the file. Methods that read it return an error from then on.
// It waits for a method that is making the index, not for others.
func (p *Program) Close() error {
	p.closeOnce.Do(func() {
		close(p.closed)
		p.start.Do(func() { // nobody has asked for the index, and nobody will get it
			p.err = fs.ErrClosed
			close(p.indexed)
		})
		<-p.indexed
		p.closeErr = p.close()
	})
	return p.closeErr
}

// BuildInfo returns what the go command has written of the build: the main module,
// its dependencies and the settings. The caller must not change it.
func (p *Program) BuildInfo() *debug.BuildInfo { return p.build }

// get returns the index. The first call makes it.
func (p *Program) get(ctx context.Context) (*index, error) {
	p.start.Do(func() {
		go func() { // ends with the index, or soon after Close
			defer close(p.indexed)
			p.index, p.err = p.makeIndex()
		}()
	})
	select {
	case <-p.indexed:
		return p.index, p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *Program) makeIndex() (x *index, err error) {
	defer recovered(&err)
	defer func() {
		if err != nil {
			err = fmt.Errorf("reading debugging information: %w", err)
		}
	}()
	f, err := elf.NewFile(p.file)
	if err != nil {
		return nil, err
	}
	x = &index{order: f.ByteOrder}
	for _, step := range []func(*elf.File) error{
		func(f *elf.File) error { return x.readSections(f, p.size) }, x.readUnits, x.readFiles, x.readSymbols,
		func(*elf.File) error { return x.readModules(p.build) },
	} {
		select {
		case <-p.closed:
			return nil, fs.ErrClosed
		default:
		}
		if err := step(f); err != nil {
			return nil, err
		}
	}
	return x, nil
}
