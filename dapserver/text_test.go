package dapserver

import (
	"encoding/json"
	"testing"
)

func FuzzText(f *testing.F) {
	f.Add([]byte("grün \x1b[31m\"\\\n\r\t\x00\x7f€\u2028\U0001f600<&>\xff\xe2\x82\ufffd"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var want string
		b, err := json.Marshal(string(text))
		if err == nil {
			err = json.Unmarshal(b, &want)
		}
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal(appendText([]byte("x"), text)[1:], &got); err != nil || got != want {
			t.Errorf("%q becomes %q, %v, want %q", text, got, err, want)
		}
	})
}
