package transcript

import (
	"bytes"
	"encoding/json"
	"strings"
)

// node is a JSON value, with the order of its members and the text of its numbers
// as they were written.
type node struct {
	kind    byte   // '{', '[', '"', or 0 for numbers, true, false and null
	raw     []byte // of strings, with their quotes, and of kind 0
	members []member
	items   []*node
}

type member struct {
	raw   []byte // the name, with its quotes
	value *node
}

// parse makes the tree of one JSON value. The tree refers to b.
func parse(b []byte) (*node, bool) {
	if !json.Valid(b) {
		return nil, false
	}
	p := parser{b, 0}
	return p.value(), true
}

// parser walks over JSON that is valid.
type parser struct {
	b   []byte
	pos int
}

func (p *parser) space() byte {
	for p.b[p.pos] == ' ' || p.b[p.pos] == '\t' || p.b[p.pos] == '\n' || p.b[p.pos] == '\r' {
		p.pos++
	}
	return p.b[p.pos]
}

func (p *parser) value() *node {
	switch c := p.space(); c {
	case '{':
		n := &node{kind: c}
		for p.pos++; p.space() != '}'; p.comma() {
			name := p.str()
			p.space()
			p.pos++ // the colon
			n.members = append(n.members, member{name, p.value()})
		}
		p.pos++
		return n
	case '[':
		n := &node{kind: c}
		for p.pos++; p.space() != ']'; p.comma() {
			n.items = append(n.items, p.value())
		}
		p.pos++
		return n
	case '"':
		return &node{kind: c, raw: p.str()}
	}
	from := p.pos
	for p.pos < len(p.b) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(p.b[p.pos])) {
		p.pos++
	}
	return &node{raw: p.b[from:p.pos]}
}

func (p *parser) comma() {
	if p.space() == ',' {
		p.pos++
	}
}

func (p *parser) str() []byte {
	from := p.pos
	for p.pos++; ; p.pos++ {
		p.pos += bytes.IndexByte(p.b[p.pos:], '"')
		escapes := 0
		for p.b[p.pos-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			p.pos++
			return p.b[from:p.pos]
		}
	}
}

// append appends the value without any space.
func (n *node) append(b []byte) []byte {
	switch n.kind {
	case '{':
		b = append(b, '{')
		for i, m := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(b, m.raw...), ':')
			b = m.value.append(b)
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.append(b)
		}
		return append(b, ']')
	}
	return append(b, n.raw...)
}

// text is a string's; empty for all else.
func (n *node) text() string {
	if n == nil || n.kind != '"' {
		return ""
	}
	return unquote(n.raw)
}

func unquote(raw []byte) (s string) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	_ = json.Unmarshal(raw, &s) // it is valid
	return s
}

// set makes the value a string.
func (n *node) set(s string) { *n = node{kind: '"', raw: appendString(nil, s)} }

// get is the member of an object, or an absent node. Names are compared as
// encoding/json does, which is what Delve reads with: the last of several wins.
func (n *node) get(name string) *node {
	if n != nil {
		for i := len(n.members) - 1; i >= 0; i-- {
			if strings.EqualFold(n.members[i].name(), name) {
				return n.members[i].value
			}
		}
	}
	return nil
}

// all calls do for each member of the name: there may be several.
func (n *node) all(name string, do func(*node)) {
	if n != nil {
		for _, m := range n.members {
			if strings.EqualFold(m.name(), name) {
				do(m.value)
			}
		}
	}
}

func (m member) name() string { return unquote(m.raw) }

// each calls do for the value and all below it, until that says not to go deeper.
func (n *node) each(do func(*node) (deeper bool)) {
	if n == nil || !do(n) {
		return
	}
	for _, m := range n.members {
		m.value.each(do)
	}
	for _, item := range n.items {
		item.each(do)
	}
}
