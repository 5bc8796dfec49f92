package resumable

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// kind is what a frame is, see the package comment.
type kind byte

const (
	kindData kind = iota
	kindAck
	kindFinish
	kindEnd
)

const (
	maxData   = 64 << 10 // bytes in one frame
	maxReason = 1 << 10
	maxHead   = binary.MaxVarintLen64
)

func appendHead(b []byte, k kind, value int64) []byte {
	return binary.AppendUvarint(b, uint64(value)<<2|uint64(k)) //nolint:gosec // never negative
}

// frame is one that was read, or for data a part of one.
type frame struct {
	kind  kind
	value int64  // kindAck: the position
	data  []byte // kindData: some of the bytes; kindEnd: the reason
}

var errFrame = errors.New("resumable: what came is no frame")

// parser reads frames from bytes that come in pieces of any size. The zero value
// begins with a frame.
type parser struct {
	head   [maxHead]byte // of a frame that is not complete
	n      int           // how much of it there is
	left   int           // bytes of data that the frame still has
	ending bool          // left counts bytes of a reason
	reason []byte
}

// data is how many bytes of data are certainly next.
func (p *parser) data() int {
	if p.ending {
		return 0
	}
	return p.left
}

// next returns the next frame of b and what comes after it. ok is false when b has
// no further one; then all of b is kept in mind.
func (p *parser) next(b []byte) (f frame, rest []byte, ok bool, err error) {
	for len(b) > 0 && p.left == 0 {
		p.head[p.n] = b[0]
		p.n++
		if last := b[0] < 0x80; !last && p.n < maxHead {
			b = b[1:]
			continue
		}
		b = b[1:]
		value, size := binary.Uvarint(p.head[:p.n])
		if size <= 0 {
			return f, nil, false, fmt.Errorf("%w: its number is too large", errFrame)
		}
		p.n = 0
		f.kind, f.value = kind(value&3), int64(value>>2)
		switch {
		case f.kind == kindAck:
			return f, b, true, nil
		case f.kind == kindData && f.value > 0 && f.value <= maxData:
			p.left = int(f.value)
		case f.kind == kindFinish && f.value == 0, f.kind == kindEnd && f.value == 0:
			return f, b, true, nil
		case f.kind == kindEnd && f.value <= maxReason:
			p.left, p.ending, p.reason = int(f.value), true, nil
		default:
			return f, nil, false, fmt.Errorf("%w: kind %d with %d", errFrame, f.kind, f.value)
		}
	}
	if p.left == 0 || len(b) == 0 {
		return frame{}, nil, false, nil
	}
	n := min(p.left, len(b))
	p.left -= n
	if !p.ending {
		return frame{kind: kindData, data: b[:n]}, b[n:], true, nil
	}
	p.reason = append(p.reason, b[:n]...)
	if p.left > 0 {
		return frame{}, nil, false, nil
	}
	p.ending = false
	return frame{kind: kindEnd, data: p.reason}, b[n:], true, nil
}
