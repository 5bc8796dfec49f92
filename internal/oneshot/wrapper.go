package oneshot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// The wrapper is what callers run in a program's place. It asks the agent what to
// execute and becomes that, without a fork: pid, parent, descriptors, environment,
// arguments and limits are untouched. It is a few hundred bytes of machine code, so that
// a call that is not debugged costs no more than another execve and a question on a
// socket: a Go runtime takes longer to start.
//
//	ask the agent on its socket, a SOCK_SEQPACKET one
//	read its answer, for ever again while that has one byte (it still thinks)
//	   two bytes or more: a path with a zero at its end, execute that
//	execute the original; so, too, if anything above fails or takes longer than patience
//	if not even that is there, unmount the wrapper and execute what is below
//
// The code is position-dependent data of this program, wrapperCode, which is copied into
// an ELF file that has nothing else but the paths. It is never called.

// wrapperCode is the wrapper's machine code (wrapper_*.s).
func wrapperCode() //nolint:unused // its address is taken in assembly

// wrapperAddress is where wrapperCode is in memory.
func wrapperAddress() unsafe.Pointer

// patience is how long the wrapper waits for each of the agent's messages.
const patience = 2 * time.Second

// The file is one segment; wrapper.h has the same places.
const (
	loadAddress = 0x400000
	atCode      = 0x100
	atSocket    = 0x800
	atTimeout   = 0x870
	atSelf      = 0x880
	atMessage   = 0x890
	atOriginal  = 0x900
	atPlace     = 0xa00
	fileSize    = 0xb00

	maxSocket  = 107 // sun_path with a zero (unix(7))
	maxPath    = 255
	messageLen = 112
	codeEnd    = 0x6b646c76 // twice after the code
)

const wrapperMessage = "kubedelve: the original program is not where it was put, and cannot be brought back; try: kubedelve restore\n"

// wrapperELF makes the wrapper's file: for the agent's socket, the path where the
// original is to be found, and the path in whose place the wrapper is put.
func wrapperELF(socket, original, place string) ([]byte, error) {
	if len(socket) > maxSocket || len(original) > maxPath || len(place) > maxPath {
		return nil, fmt.Errorf("a path is too long for the wrapper: %s, %s or %s", socket, original, place)
	}
	end := binary.LittleEndian.AppendUint32(nil, codeEnd)
	end = append(end, end...)
	code := unsafe.Slice((*byte)(wrapperAddress()), atSocket-atCode) //nolint:gosec // the program's own text
	size := bytes.Index(code, end)
	if size < 0 {
		return nil, errors.New("the wrapper's code is larger than its place")
	}
	file := make([]byte, fileSize)
	var head bytes.Buffer
	_ = binary.Write(&head, binary.LittleEndian, elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: loadAddress + atCode, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64,
	})
	_ = binary.Write(&head, binary.LittleEndian, []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: loadAddress, Paddr: loadAddress, Filesz: fileSize, Memsz: fileSize, Align: 0x10000},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	})
	copy(file, head.Bytes())
	copy(file[atCode:], code[:size])
	binary.LittleEndian.PutUint16(file[atSocket:], 1) // AF_UNIX
	copy(file[atSocket+2:], socket)
	binary.LittleEndian.PutUint64(file[atTimeout:], uint64(patience/time.Second))
	copy(file[atSelf:], "/proc/self/exe")
	copy(file[atMessage:], fmt.Sprintf("%-*s", messageLen, wrapperMessage))
	copy(file[atOriginal:], original)
	copy(file[atPlace:], place)
	return file, nil
}
