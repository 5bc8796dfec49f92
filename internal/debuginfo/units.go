package debuginfo

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// unit is a compilation unit. Go's linker writes one for each package and text
// section. (cmd/link/internal/ld/dwarf.go.)
type unit struct {
	path  string // import path of the package; of a C compiler's unit the file
	name  string // of the package
	lines int64  // where its line table is in .debug_line
	head  int64  // where it is in .debug_info
	isGo  bool
	plain bool // compiled without optimisation and inlining
}

const (
	langGo = 0x16
	// attrPackageName is DW_AT_go_package_name. (cmd/internal/dwarf.)
	attrPackageName dwarf.Attr = 0x2905

	maxHead  = 2 << 10 // of a unit, up to the end of its first entry
	maxUnits = 1 << 20
)

// readUnits reads the first entry of each unit. Reading all the others of a big
// program would take seconds.
func (x *index) readUnits(*elf.File) error {
	for off := int64(0); off < x.info.size; {
		head, next, err := x.unitHead(off)
		if err != nil {
			return err
		}
		if len(x.units) >= maxUnits {
			return errors.New("section .debug_info has too many units")
		}
		if u, ok := x.readUnit(head); ok {
			u.head = off
			x.units = append(x.units, u)
		}
		off = next
	}
	return nil
}

// unitHead returns the beginning of the unit at off as a unit of its own, nil if it
// is not one of a program, and where the next one begins. (DWARF 5, section 7.5.1.)
func (x *index) unitHead(off int64) (head []byte, next int64, err error) {
	b, err := x.info.bytes(off, maxHead)
	if err != nil {
		return nil, 0, fmt.Errorf("section .debug_info: %w", err)
	}
	size, body, err := unitLength(b, x.order)
	if err != nil || size < 16 || size > x.info.size-off-body {
		return nil, 0, fmt.Errorf("section .debug_info: the unit at %#x has a wrong length", off)
	}
	next = off + body + size
	head = slices.Clone(b[:min(int64(len(b)), body+size)])
	if body == 4 {
		x.order.PutUint32(head, uint32(int64(len(head))-body))
	} else {
		x.order.PutUint64(head[4:], uint64(int64(len(head))-body))
	}
	const compile, partial = 1, 3
	if x.order.Uint16(head[body:]) >= 5 && head[body+2] != compile && head[body+2] != partial {
		head = nil
	}
	return head, next, nil
}

var errShort = errors.New("too short")

// unitLength reads the length at the beginning of a unit or of a line table, and
// says where what it counts begins.
func unitLength(b []byte, order binary.ByteOrder) (size, body int64, err error) {
	if len(b) < 16 {
		return 0, 0, errShort
	}
	if n := order.Uint32(b); n != 0xffffffff {
		return int64(n), 4, nil
	}
	n := int64(order.Uint64(b[4:]))
	if n < 0 {
		return 0, 0, errShort
	}
	return n, 12, nil
}

// readUnit reads the first entry of a unit.
func (x *index) readUnit(head []byte) (unit, bool) {
	e, err := x.firstEntry(head)
	if err != nil {
		return unit{}, false // a C compiler's: these may use what debug/dwarf can't read
	}
	var u unit
	var ok bool
	if u.lines, ok = e.Val(dwarf.AttrStmtList).(int64); !ok {
		return unit{}, false // only types and constants
	}
	lang, _ := e.Val(dwarf.AttrLanguage).(int64)
	u.isGo = lang == langGo
	u.path, _ = e.Val(dwarf.AttrName).(string)
	u.name, _ = e.Val(attrPackageName).(string)
	producer, _ := e.Val(dwarf.AttrProducer).(string)
	_, flags, _ := strings.Cut(producer, ";")
	fields := strings.Fields(flags)
	u.plain = slices.Contains(fields, "-N") && slices.Contains(fields, "-l")
	return u, true
}

func (x *index) firstEntry(head []byte) (*dwarf.Entry, error) {
	if head == nil {
		return nil, errShort
	}
	d, err := x.tables.data(head, nil)
	if err != nil {
		return nil, err
	}
	e, err := d.Reader().Next()
	if err == nil && (e == nil || e.Tag != dwarf.TagCompileUnit) {
		err = errors.New("not a compilation unit")
	}
	return e, err
}
