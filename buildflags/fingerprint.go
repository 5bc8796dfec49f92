package buildflags

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"go/parser"
	"go/token"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A fingerprinter sums up what a plan was made from, so that it need not be made
// again: asking `go list` takes as long as a small build, and seconds for a large
// program. It reads a file again only if it has another time or size.
type fingerprinter struct {
	files map[string]fileSum
}

type fileSum struct {
	time time.Time
	size int64
	sum  [sha256.Size]byte
}

// of returns the fingerprint of a plan with these inputs, for a go command that runs
// in goDir. It changes with the set of files in
// the packages' directories, with what a Go file says of imports, build constraints
// and embedded files, and with the contents of the files that choose modules. What
// else the files say is for the compiler. settled is false if something changed
// after the time since, when the plan was begun, so that it may have been read
// before or after the change.
func (f *fingerprinter) of(in *Inputs, goDir string, since time.Time) (sum string, settled bool) {
	h := sha256.New()
	settled = true
	note := func(name string) {
		st, err := os.Stat(name)
		if err != nil {
			_, _ = fmt.Fprintf(h, "%q is not there\n", name)
			return
		}
		// File systems round down to a tick of the kernel's clock, of up to 10 ms.
		if st.ModTime().After(since.Add(-20 * time.Millisecond)) {
			settled = false
		}
		_, _ = fmt.Fprintf(h, "%q %x\n", name, f.sum(name, st))
	}
	for _, dir := range in.Dirs {
		directory(h, in, dir, note)
	}
	for _, name := range in.Files {
		p := in.packages[filepath.Dir(name)]
		if in.modules[name] || p != nil && !p.open && isSource(filepath.Base(name)) {
			note(name)
		}
	}
	_, _ = fmt.Fprintf(h, "work %q\n", nearest(goDir, "go.work")) // it counts also if it is new
	return hex.EncodeToString(h.Sum(nil)), settled
}

// directory notes the sources in a package's directory, and the directories with
// files to embed below it.
func directory(h hash.Hash, in *Inputs, dir string, note func(name string)) {
	entries, _ := os.ReadDir(dir) // it may not be there yet
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch p := in.packages[dir]; {
		case p != nil && p.open && isSource(e.Name()) && !e.IsDir():
			note(name)
		case p != nil && len(p.embeds) == 0: // what is below can't be a part of it
		case in.Match(name, e.IsDir()):
			_, _ = fmt.Fprintf(h, "embeds %q\n", name)
			if e.IsDir() {
				directory(h, in, name, note)
			}
		}
	}
}

// isSource reports whether Go looks at a file of that name to see whether it belongs
// to a build. It is generous: names without meaning are rare.
func isSource(name string) bool {
	switch filepath.Ext(name) {
	case ".go":
		return !strings.HasSuffix(name, "_test.go") && name[0] != '.' && name[0] != '_'
	case ".c", ".cc", ".cpp", ".cxx", ".m", ".h", ".hh", ".hpp", ".hxx", ".f", ".F", ".for", ".f90", ".s", ".S", ".sx", ".swig", ".swigcxx", ".syso":
		return name[0] != '.' && name[0] != '_'
	}
	return false
}

// sum is that of what a plan depends on in a file.
func (f *fingerprinter) sum(name string, st fs.FileInfo) [sha256.Size]byte {
	if s, ok := f.files[name]; ok && s.time.Equal(st.ModTime()) && s.size == st.Size() {
		return s.sum
	}
	var s [sha256.Size]byte
	switch ext := filepath.Ext(name); {
	case ext == ".go":
		content, err := os.ReadFile(name)
		if err == nil {
			s = sha256.Sum256(header(content))
		}
	case isSource(filepath.Base(name)):
		// That it is there is enough: constraints in C are rare, and then only
		// what is watched depends on them.
	default:
		content, err := os.ReadFile(name)
		if err == nil {
			s = sha256.Sum256(content)
		}
	}
	if f.files == nil {
		f.files = map[string]fileSum{}
	}
	f.files[name] = fileSum{st.ModTime(), st.Size(), s}
	return s
}

// header is the part of a Go file that says which files and packages it needs: all
// up to the end of the imports, and go:embed directives. Of a file that can't be
// read so far it is the whole.
func header(content []byte) []byte {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", content, parser.ImportsOnly)
	if err != nil {
		return content
	}
	end := file.Name.End()
	for _, decl := range file.Decls {
		end = max(end, decl.End())
	}
	offset := min(fset.Position(end).Offset, len(content))
	head := bytes.Clone(content[:offset])
	for line := range bytes.Lines(content[offset:]) {
		if line = bytes.TrimSpace(line); bytes.HasPrefix(line, []byte("//go:embed")) {
			head = append(append(head, '\n'), line...)
		}
	}
	return head
}
