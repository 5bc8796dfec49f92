package dapserver

import (
	"strings"
	"unicode/utf8"
)

// DAP counts columns in UTF-16 code units, from 1 (columnsStartAt1: every other
// client is refused). Go's strings are bytes of UTF-8, though a client can send
// what is not.

// units is how many UTF-16 code units s has. What is not UTF-8 counts as the
// replacement character that it becomes in JSON, one for each byte.
func units(s string) int {
	n := 0
	for _, r := range s {
		n++
		if r > 0xffff {
			n++
		}
	}
	return n
}

// offset is where in s, in bytes, the column is: before the character that is in
// it. A column in the middle of a character is before it, one that is past the end
// is at the end, and one before the beginning at that.
func offset(s string, column int) int {
	at := 1
	for i, r := range s {
		width := 1
		if r > 0xffff {
			width = 2
		}
		if at+width > column {
			return i
		}
		at += width
	}
	return len(s)
}

// column is the column at which the byte at is in s.
func column(s string, at int) int { return units(s[:at]) + 1 }

// lineOf is the line of text with the given number, from 1; the first one if there
// is no such line. Its end is not part of it.
func lineOf(text string, number int) string {
	lines := strings.Split(text, "\n")
	if number < 1 || number > len(lines) {
		number = 1
	}
	return strings.TrimSuffix(lines[number-1], "\r")
}

// wordBefore is where the identifier begins that s ends in; len(s) if it ends in
// none.
func wordBefore(s string) int {
	for i := len(s); i > 0; {
		r, size := utf8.DecodeLastRuneInString(s[:i])
		if !isWordRune(r) || r == utf8.RuneError {
			return i
		}
		i -= size
	}
	return 0
}
