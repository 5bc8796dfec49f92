package buildflags

import (
	"bufio"
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// elfArch is Go's name for the machines that Go makes ELF files for.
func elfArch(f *elf.File) string {
	le := f.Data == elf.ELFDATA2LSB
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_386:
		return "386"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_ARM:
		return "arm"
	case elf.EM_PPC64:
		if le {
			return "ppc64le"
		}
		return "ppc64"
	case elf.EM_S390:
		return "s390x"
	case elf.EM_RISCV:
		return "riscv64"
	case elf.EM_LOONGARCH:
		return "loong64"
	case elf.EM_MIPS:
		name := "mips"
		if f.Class == elf.ELFCLASS64 {
			name += "64"
		}
		if le {
			name += "le"
		}
		return name
	}
	return strings.ToLower(strings.TrimPrefix(f.Machine.String(), "EM_"))
}

func (i *Info) readELF(r io.ReaderAt) error {
	i.Format = "ELF"
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Errorf("damaged executable: %w", err)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("an ELF file, but no executable (%v)", f.Type)
	}
	i.readBuildInfo(r)
	i.Platform = Platform{OS: "linux", Arch: elfArch(f)}
	if goos := i.Settings["GOOS"]; goos != "" {
		i.Platform.OS = goos // ELF headers tell FreeBSD and the others from Linux only at times
	}
	i.readDynamic(f)
	i.BuildID = goBuildID(f)
	if len(i.Problems) > 0 && i.Problems[0].ID == ProblemNotGo {
		i.DWARF = f.Section(".debug_info") != nil
		return nil
	}
	i.readDWARF(f)
	return nil
}

// readDynamic sets what the binary needs of the image it runs in.
func (i *Info) readDynamic(f *elf.File) {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err == nil {
			i.Interpreter = string(bytes.TrimRight(b, "\x00"))
		}
	}
	i.Libraries, _ = f.ImportedLibraries() // none in a static binary
	i.Static = i.Interpreter == "" && len(i.Libraries) == 0
	switch {
	case strings.Contains(i.Interpreter, "/ld-musl-"):
		i.Libc = "musl"
	case slices.Contains(i.Libraries, "libc.so.6"):
		i.Libc = "glibc"
	}
	if i.Libc != "glibc" {
		return
	}
	symbols, _ := f.ImportedSymbols()
	var least [3]int
	for _, s := range symbols {
		v, ok := strings.CutPrefix(s.Version, "GLIBC_")
		var n [3]int
		if parts, _ := fmt.Sscanf(v, "%d.%d.%d", &n[0], &n[1], &n[2]); ok && parts >= 2 && slices.Compare(n[:], least[:]) > 0 {
			least, i.MinGlibc = n, v
		}
	}
}

// goBuildID returns Go's build ID, which is in an ELF note of type 4 with the
// name "Go". (cmd/internal/buildid.)
func goBuildID(f *elf.File) string {
	s := f.Section(".note.go.buildid")
	if s == nil || s.Size > 4096 {
		return ""
	}
	b, err := s.Data()
	if err != nil || len(b) < 16 {
		return ""
	}
	nameSize, descSize := f.ByteOrder.Uint32(b), f.ByteOrder.Uint32(b[4:])
	if nameSize != 4 || f.ByteOrder.Uint32(b[8:]) != 4 || string(b[12:16]) != "Go\x00\x00" || int64(descSize) > int64(len(b)-16) {
		return ""
	}
	return string(b[16 : 16+descSize])
}

// readDWARF sets what the debugging information says, and the problems with it.
func (i *Info) readDWARF(f *elf.File) {
	const fix = "build without -s and -w in -ldflags, and don't strip it"
	section := f.Section(".debug_info")
	if section == nil || section.Type == elf.SHT_NOBITS {
		i.problem(ProblemStripped, "it has no debugging information (DWARF)", fix)
		return
	}
	i.DWARF = true
	i.CompressedDWARF = section.Flags&elf.SHF_COMPRESSED != 0
	flags, err := producerFlags(f, i.Size)
	if err == nil && len(flags) == 0 {
		err = errors.New("it describes no Go package")
	}
	if err != nil {
		i.problem(ProblemDamaged, fmt.Sprintf("the debugging information can't be read: %v", err), "build it again")
		return
	}
	i.Packages = len(flags)
	for _, pkg := range slices.Sorted(maps.Keys(flags)) {
		if !flags[pkg] && !alwaysOptimized(pkg) {
			i.Optimized = append(i.Optimized, pkg)
		}
	}
	if n := len(i.Optimized); n > 0 {
		i.problem(ProblemOptimized, fmt.Sprintf("%d of its %d packages are optimised (%s)", n, i.Packages, abridge(i.Optimized, 3)),
			"build with -gcflags='all=-N -l'")
	}
}

// alwaysOptimized reports whether the compiler may ignore -N for a package: it
// does for the runtime and what that imports, a list that each version of Go
// changes. (cmd/internal/objabi/pkgspecial.go.) All of the standard library's
// internal packages count, since nobody can compile only these with optimisation.
func alwaysOptimized(pkg string) bool {
	return pkg == "runtime" || strings.HasPrefix(pkg, "runtime/") || strings.HasPrefix(pkg, "internal/")
}

// producerFlags says for each Go package in the debugging information whether
// all of it was compiled with -N and -l.
//
// Go's linker writes a compilation unit for each package and text section. The
// compiler's flags are in its DW_AT_producer after a semicolon, as in
// "Go cmd/compile go1.26.1; -N -l regabi". (cmd/link/internal/ld/dwarf.go.)
// Only the first entry of each unit is read: walking the others of a big program
// takes seconds.
func producerFlags(f *elf.File, size int64) (map[string]bool, error) {
	section := f.Section(".debug_info")
	if section.Size > 32*uint64(size) {
		return nil, fmt.Errorf("section .debug_info is said to have %d bytes", section.Size)
	}
	info, err := firstEntries(section, f.ByteOrder)
	if err != nil {
		return nil, err
	}
	var abbrev, str []byte
	others := make(map[string][]byte)
	for _, name := range []string{".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_str_offsets", ".debug_addr"} {
		s := f.Section(name)
		if s == nil {
			continue
		}
		b, err := sectionData(s, size)
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", name, err)
		}
		switch name {
		case ".debug_abbrev":
			abbrev = b
		case ".debug_str":
			str = b
		default:
			others[name] = b
		}
	}
	d, err := dwarf.New(abbrev, nil, nil, info.data, nil, nil, nil, str)
	if err != nil {
		return nil, err
	}
	for name, b := range others {
		if err := d.AddSection(name, b); err != nil {
			return nil, err
		}
	}
	const langGo = 0x16
	flags := make(map[string]bool)
	r := d.Reader()
	for _, off := range info.entries {
		r.Seek(off)
		e, err := r.Next()
		if err != nil || e == nil || e.Tag != dwarf.TagCompileUnit {
			continue // a C compiler's: these may use what debug/dwarf can't read
		}
		if lang, _ := e.Val(dwarf.AttrLanguage).(int64); lang != langGo {
			continue
		}
		name, _ := e.Val(dwarf.AttrName).(string)
		producer, _ := e.Val(dwarf.AttrProducer).(string)
		if e.AttrField(dwarf.AttrLowpc) == nil && e.AttrField(dwarf.AttrRanges) == nil {
			continue // only types and constants
		}
		_, opts, ok := strings.Cut(producer, ";")
		fields := strings.Fields(opts)
		// A unit without any flags holds only assembly, which is what it is.
		good := !ok || slices.Contains(fields, "-N") && slices.Contains(fields, "-l")
		if was, seen := flags[name]; !seen || was {
			flags[name] = good
		}
	}
	return flags, nil
}

// unitHeads is a .debug_info section of which each unit was cut short.
type unitHeads struct {
	data    []byte
	entries []dwarf.Offset // where in data the first entry of each unit is
}

const (
	maxHead  = 2 << 10   // how much of a unit is kept: its first entry has a producer, a name and numbers
	maxHeads = 256 << 20 // of all units; the biggest Go programs have some ten thousand
)

// firstEntries reads a .debug_info section, but only the start of each unit.
// (DWARF 5, section 7.5.1: unit headers.)
func firstEntries(s *elf.Section, order binary.ByteOrder) (*unitHeads, error) {
	u := new(unitHeads)
	peek := peeker(s)
	for pos := uint64(0); pos+12 < s.Size; {
		b, err := peek(pos, int(min(maxHead, s.Size-pos)))
		if err != nil {
			return nil, fmt.Errorf("section .debug_info: %w", err)
		}
		size, header, wide := uint64(order.Uint32(b)), uint64(4), uint64(4)
		if size == 0xffffffff {
			size, header, wide = 0, 12, 8
			if len(b) > 24 {
				size = order.Uint64(b[4:])
			}
		}
		if size < 16 || size > s.Size-pos-header {
			return nil, fmt.Errorf("section .debug_info: the unit at %#x is said to have %d bytes", pos, size)
		}
		b = b[:min(uint64(len(b)), header+size)]
		entry := header + 2 + wide + 1 // after version, abbreviations, address size
		isProgram := true
		if order.Uint16(b[header:]) >= 5 {
			entry++ // after the unit type, which is compile or partial
			isProgram = b[header+2] == 1 || b[header+2] == 3
		}
		if isProgram {
			if len(u.data)+len(b) > maxHeads {
				return nil, errors.New("section .debug_info has too many units")
			}
			start := len(u.data)
			u.entries = append(u.entries, dwarf.Offset(uint64(start)+entry))
			u.data = append(u.data, b...)
			if wide == 4 {
				order.PutUint32(u.data[start:], uint32(uint64(len(b))-header))
			} else {
				order.PutUint64(u.data[start+4:], uint64(len(b))-header)
			}
		}
		pos += header + size
	}
	return u, nil
}

// peeker returns a function that returns n bytes of a section at pos, until its
// next call. Each pos must be at least the one before: of a compressed section
// there is only a stream.
func peeker(s *elf.Section) func(pos uint64, n int) ([]byte, error) {
	if s.Flags&elf.SHF_COMPRESSED == 0 {
		buf := make([]byte, maxHead)
		return func(pos uint64, n int) ([]byte, error) {
			_, err := s.ReadAt(buf[:n], int64(pos))
			return buf[:n], err
		}
	}
	r := bufio.NewReaderSize(s.Open(), 16*maxHead)
	at := uint64(0)
	return func(pos uint64, n int) ([]byte, error) {
		for at < pos {
			skipped, err := r.Discard(int(min(pos-at, 1<<30)))
			at += uint64(skipped)
			if err != nil {
				return nil, err
			}
		}
		return r.Peek(n)
	}
}

// sectionData returns the contents of a section of a file of size bytes, uncompressed, unless these
// would be out of proportion with the file: a damaged or malicious one may say so.
func sectionData(s *elf.Section, size int64) ([]byte, error) {
	if s.Flags&elf.SHF_COMPRESSED == 0 {
		if s.Size > uint64(size) {
			return nil, io.ErrUnexpectedEOF
		}
		b := make([]byte, s.Size)
		_, err := s.ReadAt(b, 0)
		return b, err
	}
	limit := uint64(min(size, 1<<30)) * 16
	if s.Size > limit {
		return nil, fmt.Errorf("%d bytes are said to hold %d", s.FileSize, s.Size)
	}
	var b bytes.Buffer
	_, err := io.Copy(&b, io.LimitReader(s.Open(), int64(s.Size)))
	return b.Bytes(), err
}
