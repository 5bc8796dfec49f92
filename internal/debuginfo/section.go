package debuginfo

import (
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"io"
)

// maxInflated bounds the sections of a file with compressed debugging information,
// which are kept in memory: as a multiple of the file's size.
const maxInflated = 16

// section is a section of the file, as if it were not compressed.
type section struct {
	r    io.ReaderAt
	size int64
	// whole is the content, if that is in memory.
	whole []byte
}

// tables are the sections that all units need, in memory. They are small: Go's
// linker writes strings where they are used.
type tables struct {
	abbrev, str, lineStr []byte
}

// data makes debug/dwarf look at one unit: the head of it and its line table.
func (t tables) data(head, line []byte) (*dwarf.Data, error) {
	d, err := dwarf.New(t.abbrev, nil, nil, head, line, nil, nil, t.str)
	if err != nil {
		return nil, err
	}
	return d, d.AddSection(".debug_line_str", t.lineStr)
}

// readSections finds the sections in a file of size bytes.
func (x *index) readSections(f *elf.File, size int64) (err error) {
	if x.info, err = openSection(f, ".debug_info", size); err != nil {
		return err
	}
	if x.info.size == 0 {
		return errors.New("there is none (the program is stripped)")
	}
	if x.line, err = openSection(f, ".debug_line", size); err != nil {
		return err
	}
	for name, into := range map[string]*[]byte{
		".debug_abbrev": &x.tables.abbrev, ".debug_str": &x.tables.str, ".debug_line_str": &x.tables.lineStr,
	} {
		s, err := openSection(f, name, size)
		if err != nil {
			return err
		}
		if *into, err = s.bytes(0, s.size); err != nil {
			return fmt.Errorf("section %s: %w", name, err)
		}
	}
	return nil
}

// openSection returns the section with the given name of a file of size bytes; one
// that is not there is empty. A compressed one is read into memory: it can't be
// read from the middle.
func openSection(f *elf.File, name string, size int64) (section, error) {
	s := f.Section(name)
	if s == nil || s.Type == elf.SHT_NOBITS {
		return section{r: bytes.NewReader(nil)}, nil
	}
	if s.Flags&elf.SHF_COMPRESSED == 0 {
		if s.Size > uint64(size) {
			return section{}, fmt.Errorf("section %s: %w", name, io.ErrUnexpectedEOF)
		}
		return section{r: s.ReaderAt, size: int64(s.Size)}, nil
	}
	if s.Size/maxInflated > uint64(size) {
		return section{}, fmt.Errorf("section %s: %d bytes are said to hold %d", name, s.FileSize, s.Size)
	}
	var b bytes.Buffer // grows with what is really there
	if _, err := io.Copy(&b, io.LimitReader(s.Open(), int64(s.Size))); err != nil {
		return section{}, fmt.Errorf("section %s: %w", name, err)
	}
	return section{r: bytes.NewReader(b.Bytes()), size: int64(b.Len()), whole: b.Bytes()}, nil
}

// bytes returns n bytes at the offset, or fewer at the section's end. They must
// not be changed.
func (s section) bytes(off, n int64) ([]byte, error) {
	if off < 0 || off > s.size || n < 0 {
		return nil, io.ErrUnexpectedEOF
	}
	n = min(n, s.size-off)
	if s.whole != nil {
		return s.whole[off : off+n], nil
	}
	b := make([]byte, n)
	if read, err := s.r.ReadAt(b, off); read < len(b) {
		return nil, err
	}
	return b, nil
}
