package main

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

func TestReplicasOfALaunchConfiguration(t *testing.T) {
	for text, want := range map[dapserver.Replicas]int{"": 0, "1": 1, "3": 3, "all": kubelaunch.AllReplicas} {
		o, err := optionsOf(&dapserver.LaunchConfig{Target: dapserver.Target{Name: "deploy/web", Replicas: text}})
		if err != nil || o.Replicas != want {
			t.Errorf("%q: got %d, %v, want %d", text, o.Replicas, err, want)
		}
	}
	for _, text := range []dapserver.Replicas{"0", "-1", "1.5", "every", " 2"} {
		_, err := optionsOf(&dapserver.LaunchConfig{Target: dapserver.Target{Name: "deploy/web", Replicas: text}})
		if want := fmt.Sprintf("target.replicas is %q: write a number from 1, or all", text); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestSeveralReplicasWriteWholeLines(t *testing.T) {
	var text bytes.Buffer
	var line sync.Mutex
	a, b := &prefixed{mu: &line, w: &text}, &prefixed{mu: &line, w: &text}
	for _, piece := range []struct {
		to          *prefixed
		place, data string
	}{
		{a, "pod a, container app", "one\ntw"},
		{b, "pod b, container app", "three\n"},
		{a, "pod a, container app", "o\n\nhalf"},
		{a, "pod a2, container app", "whole\n"},
		{b, "pod b, container app", strings.Repeat("x", longestLine+1)},
		{b, "pod b, container app", "rest"},
	} {
		piece.to.from(piece.place)
		if n, err := piece.to.Write([]byte(piece.data)); err != nil || n != len(piece.data) {
			t.Errorf("Write(%.20q): %d, %v", piece.data, n, err)
		}
	}
	a.end()
	b.end()
	want := "[pod a] one\n[pod b] three\n[pod a] two\n[pod a] \n[pod a] half\n[pod a2] whole\n[pod b] " +
		strings.Repeat("x", longestLine+1) + "\n[pod b] rest\n"
	if text.String() != want {
		t.Errorf("got\n%s, want\n%s", &text, want)
	}
}

func TestWhatHappensToAReplicaNamesItsPod(t *testing.T) {
	for _, test := range []struct{ pod, text, want string }{
		{"", "the program exited with code 3", "the program exited with code 3"},
		{"web-2", "the program exited with code 3", "web-2: the program exited with code 3"},
		{"web-2", "pod web-2, container app now serves deploy/web", "pod web-2, container app now serves deploy/web"},
		{"web-2", "", ""},
	} {
		if got := among(test.pod, test.text); got != test.want {
			t.Errorf("among(%q, %q) is %q, want %q", test.pod, test.text, got, test.want)
		}
	}
}
