package debuginfo

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// symbols are the functions and variables that an expression can name.
type symbols struct {
	packages map[string]*members // by import path
	paths    map[string][]string // of packages, by their name, sorted
	text     []textRun           // sorted by addr
	entries  []uint64            // where functions begin, sorted
}

// members are what a package has, each sorted.
type members struct {
	functions, variables []string
	methods              map[string][]string // by the name of the receiver's type
}

// textRun is where the code of a package begins: up to the next one.
type textRun struct {
	addr uint64
	path string
}

// readSymbols reads the symbol table, which the linker writes for every program
// that is not stripped: it names the same functions and package-level variables as
// the DWARF does, in a tenth of the bytes.
func (x *index) readSymbols(f *elf.File) error {
	x.symbols = symbols{packages: map[string]*members{}, paths: map[string][]string{}}
	s := &x.symbols
	for i := range x.units {
		if u := &x.units[i]; u.isGo && u.name != "" && s.packages[u.path] == nil {
			s.packages[u.path] = &members{methods: map[string][]string{}}
			s.paths[u.name] = append(s.paths[u.name], u.path)
		}
	}
	table, err := f.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return fmt.Errorf("the symbol table: %w", err)
	}
	writable := func(i elf.SectionIndex) bool {
		return int(i) < len(f.Sections) && f.Sections[i].Flags&elf.SHF_WRITE != 0
	}
	for i := range table {
		sym := &table[i]
		kind := elf.ST_TYPE(sym.Info)
		if sym.Size == 0 || kind != elf.STT_FUNC && kind != elf.STT_OBJECT {
			continue // the linker's own marks, like runtime.text
		}
		if kind == elf.STT_FUNC {
			s.entries = append(s.entries, sym.Value)
		}
		path, name := splitSymbol(sym.Name)
		pkg := s.packages[path]
		if pkg == nil {
			continue
		}
		if kind == elf.STT_FUNC {
			s.text = append(s.text, textRun{sym.Value, path})
			pkg.addFunction(name)
		} else if writable(sym.Section) && token.IsIdentifier(name) && name != "_" {
			pkg.variables = append(pkg.variables, strings.Clone(name))
		}
	}
	s.sort()
	return nil
}

// sort puts what was read in order, and joins what is in one piece.
func (s *symbols) sort() {
	unique := func(names []string) []string {
		slices.Sort(names)
		return slices.Compact(names)
	}
	for _, m := range s.packages {
		m.functions, m.variables = unique(m.functions), unique(m.variables)
		for t := range m.methods {
			m.methods[t] = unique(m.methods[t])
		}
	}
	for name := range s.paths {
		slices.Sort(s.paths[name])
	}
	slices.Sort(s.entries)
	slices.SortStableFunc(s.text, func(a, b textRun) int { return cmp.Compare(a.addr, b.addr) })
	s.text = slices.Clip(slices.CompactFunc(s.text, func(a, b textRun) bool { return a.path == b.path }))
}

// addFunction adds a function or method, unless it is one that has no name in the
// source: closures, wrappers, initialisers, instances of generic ones.
func (m *members) addFunction(name string) {
	receiver, method, isMethod := strings.Cut(name, ".")
	switch {
	case !isMethod && token.IsIdentifier(name) && name != "_" && name != "init":
		m.functions = append(m.functions, strings.Clone(name))
	case isMethod && token.IsIdentifier(method):
		if t, ok := strings.CutPrefix(receiver, "(*"); ok {
			receiver = strings.TrimSuffix(t, ")")
		}
		// A function's closures look like a type's methods: "work.func1".
		if !token.IsIdentifier(receiver) || isClosure(method) || receiver == "init" {
			return
		}
		receiver = strings.Clone(receiver)
		m.methods[receiver] = append(m.methods[receiver], strings.Clone(method))
	}
}

// isClosure tells a name that the compiler gives to a function inside another:
// func1, gowrap1, deferwrap2 (cmd/compile/internal/ir.closureName).
func isClosure(name string) bool {
	base := strings.TrimRight(name, "0123456789")
	return base != name && (base == "func" || base == "gowrap" || base == "deferwrap")
}

// splitSymbol divides the name of a symbol, as in "example.com/a/b.(*T).Method",
// after the import path.
func splitSymbol(symbol string) (path, name string) {
	// Type arguments have import paths too.
	plain := symbol
	if i := strings.IndexAny(plain, "[{( "); i >= 0 {
		plain = plain[:i]
	}
	slash := strings.LastIndexByte(plain, '/') + 1
	dot := strings.IndexByte(plain[slash:], '.')
	if dot < 0 {
		return "", symbol
	}
	dot += slash
	return unescapePath(symbol[:dot]), symbol[dot+1:]
}

// unescapePath undoes what the compiler does to an import path in a symbol: dots
// after the last slash, and all that is unusual, are written as in "%2e".
// (cmd/internal/objabi.PathToPrefix.)
func unescapePath(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c, err := strconv.ParseUint(path[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// Packages returns the import paths of all packages, by the name that they have in
// an expression, sorted. The main package's path is "main". The caller must not
// change the map.
func (p *Program) Packages(ctx context.Context) (map[string][]string, error) {
	x, err := p.get(ctx)
	if err != nil {
		return nil, err
	}
	return x.symbols.paths, nil
}

// Members returns the functions and the variables of the package with the given
// import path, sorted: those that the linker has left in the program. The caller
// must not change the slices.
func (p *Program) Members(ctx context.Context, path string) (functions, variables []string, err error) {
	x, err := p.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	if m := x.symbols.packages[path]; m != nil {
		return m.functions, m.variables, nil
	}
	return nil, nil, nil
}

// Methods returns the methods of a type, with value or pointer receiver, sorted:
// those that the linker has left in the program, without those of embedded fields
// and without generic ones. The type is written as Delve does, as in
// "example.com/a/b.T" or "gopkg.in/yaml%2ev3.Node". The caller must not change the slice.
func (p *Program) Methods(ctx context.Context, typ string) ([]string, error) {
	x, err := p.get(ctx)
	if err != nil {
		return nil, err
	}
	path, name := splitSymbol(typ)
	if m := x.symbols.packages[path]; m != nil {
		return m.methods[name], nil
	}
	return nil, nil
}

// PackageAt returns the import path of the package that has code at the address,
// or "" if none has. Addresses are those in the file; a position-independent
// executable runs at others.
func (p *Program) PackageAt(ctx context.Context, pc uint64) (string, error) {
	x, err := p.get(ctx)
	if err != nil {
		return "", err
	}
	return x.symbols.packageAt(pc), nil
}

func (s *symbols) packageAt(pc uint64) string {
	i, found := slices.BinarySearchFunc(s.text, pc, func(r textRun, pc uint64) int { return cmp.Compare(r.addr, pc) })
	if !found {
		i--
	}
	if i < 0 {
		return ""
	}
	return s.text[i].path
}
