package kubelaunch

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

func TestParseCalls(t *testing.T) {
	for _, test := range []struct {
		text    string
		want    CallFilter
		refused string
	}{
		{text: ""},
		{text: "command=create", want: CallFilter{Commands: []string{"create"}}},
		{text: "command=create, command=start,id=ab*", want: CallFilter{Commands: []string{"create", "start"}, ID: "ab*"}},
		{text: "pod=web-*", want: CallFilter{Pod: "web-*"}},
		{text: "pod=default/web-*,container=app", want: CallFilter{Namespace: "default", Pod: "web-*", Container: "app"}},
		{text: "namespace=default", want: CallFilter{Namespace: "default"}},
		{text: "arg=--root=/run/*,env=A=b", want: CallFilter{Args: []string{"--root=/run/*"}, Env: []string{"A=b"}}},
		{text: "label=app=web,label=tier!=x", want: CallFilter{Labels: "app=web,tier!=x"}},
		{text: "label=a b", refused: "a b"},
		{text: "every=10s", want: CallFilter{Every: agentapi.Duration(10 * time.Second)}},
		{text: "every=often", refused: "like every=10s"},
		{text: "every=-1s", refused: "like every=10s"},
		{text: "max=3", want: CallFilter{Max: 3}},
		{text: "max=0", refused: "a number from 1"},
		{text: "max=17", refused: "a number from 1"},
		{text: "create", refused: "NAME=VALUE"},
		{text: "pod=", refused: "NAME=VALUE"},
		{text: "pods=web", refused: "there are the conditions"},
		{text: "id=[a", refused: "not well-formed"},
	} {
		got, err := ParseCalls(test.text)
		if test.refused != "" {
			if err == nil || !strings.Contains(err.Error(), test.refused) {
				t.Errorf("ParseCalls(%q): %v; want an error with %q", test.text, err, test.refused)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("ParseCalls(%q) = %+v, %v; want %+v", test.text, got, err, test.want)
		}
	}
}
