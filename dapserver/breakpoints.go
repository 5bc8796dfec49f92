package dapserver

import "encoding/json"

// breakpoints are the breakpoints of a client as it set them: the arguments of
// the requests, not Delve's idea of them. Sent again to another Delve they
// mean the same.
type breakpoints struct {
	// sources has the arguments of setBreakpoints by source, in the order in
	// which the sources were first named. A source without breakpoints is gone.
	sources []sourceBreakpoints
	// The others each replace what was there; by the name of the request.
	others map[string]json.RawMessage
}

type sourceBreakpoints struct {
	key       string
	source    json.RawMessage
	arguments json.RawMessage
}

// breakpointRequests are the requests that set breakpoints, with the member
// that lists them.
var breakpointRequests = map[string]string{
	"setBreakpoints":            "breakpoints",
	"setFunctionBreakpoints":    "breakpoints",
	"setInstructionBreakpoints": "breakpoints",
	"setDataBreakpoints":        "breakpoints",
	"setExceptionBreakpoints":   "filters",
}

// record notes what a request that goes to Delve sets.
func (b *breakpoints) record(command string, arguments json.RawMessage) {
	if breakpointRequests[command] == "" || empty(arguments) {
		return
	}
	// The bytes belong to the message, which may be large otherwise.
	arguments = append(json.RawMessage(nil), arguments...)
	if command != "setBreakpoints" {
		if b.others == nil {
			b.others = map[string]json.RawMessage{}
		}
		b.others[command] = arguments
		return
	}
	var args struct {
		Source      json.RawMessage
		Breakpoints []json.RawMessage
		Lines       []json.RawMessage
	}
	var source struct {
		Path            string
		SourceReference json.Number
	}
	if json.Unmarshal(arguments, &args) != nil || json.Unmarshal(args.Source, &source) != nil {
		return // Delve will say what is wrong with it
	}
	key := source.Path + "\x00" + string(source.SourceReference)
	for i := range b.sources {
		if b.sources[i].key == key {
			if len(args.Breakpoints) == 0 && len(args.Lines) == 0 {
				b.sources = append(b.sources[:i], b.sources[i+1:]...)
				return
			}
			b.sources[i].source, b.sources[i].arguments = args.Source, arguments
			return
		}
	}
	if len(args.Breakpoints) > 0 || len(args.Lines) > 0 {
		b.sources = append(b.sources, sourceBreakpoints{key, args.Source, arguments})
	}
}

// request is a request that is to be sent to Delve.
type request struct {
	command   string
	arguments any
}

// clearing are the requests that take all breakpoints away, also Delve's own
// on panics, which would halt the component with nobody there to resume it.
func (b *breakpoints) clearing() []request {
	none := []struct{}{}
	var all []request
	for _, s := range b.sources {
		all = append(all, request{"setBreakpoints", map[string]any{"source": s.source, "breakpoints": none}})
	}
	for _, command := range []string{"setFunctionBreakpoints", "setInstructionBreakpoints", "setDataBreakpoints"} {
		if b.others[command] != nil {
			all = append(all, request{command, map[string]any{"breakpoints": none}})
		}
	}
	return append(all, request{"setExceptionBreakpoints", map[string]any{"filters": none}})
}
