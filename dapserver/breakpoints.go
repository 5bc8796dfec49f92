package dapserver

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// breakpoints are the breakpoints of a client as it set them: the arguments of
// the requests, not Delve's idea of them. Sent again to another Delve they mean
// the same, with two exceptions: addresses are those of one binary, and
// variables of a function those of one process. See outdated.
type breakpoints struct {
	// sets are in the order in which the client first named them.
	sets []*breakpointSet
	// used are the ids that the client has been told.
	used map[int]struct{}
}

// breakpointSet is what one request sets, and the next one of its kind (for the
// same source) replaces.
type breakpointSet struct {
	command   string
	key       string // of the source, for setBreakpoints
	source    json.RawMessage
	arguments json.RawMessage
	// wanted are the elements of the arguments' list, and points what is known
	// of each. Exception filters have none.
	wanted []json.RawMessage
	points []*breakpoint
	// applied says that the Delve that is connected has the set. A set that is
	// applied and empty is forgotten.
	applied bool
}

// breakpoint is one that the client wants, through all requests that name it.
type breakpoint struct {
	// key is what it is known by: a line, a name, an address, a data id.
	key string
	// id is the client's; 0 if it has been told none.
	id int
	// shown is what the client was last told of it, with its id.
	shown json.RawMessage
	told  verdict
	// delveID is what Delve called it when it last had it; 0: never.
	delveID int
	// run and binary are those that the client set it in.
	run    int
	binary string
	// sendAs replaces the data id in the present run; "" for the client's own.
	sendAs string
	// gone is why it can't be set in the present run; "" if it can.
	gone string
}

// verdict is what a client sees of a breakpoint.
type verdict struct {
	verified     bool
	line, column int
	path         string
	message      string
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

// record notes what a request of the client sets, and returns it. It returns
// nil for one that Delve will refuse.
func (b *breakpoints) record(command string, arguments json.RawMessage, run Run) *breakpointSet {
	if breakpointRequests[command] == "" || empty(arguments) {
		return nil
	}
	// The bytes belong to the message, which may be large otherwise.
	arguments = append(json.RawMessage(nil), arguments...)
	set := &breakpointSet{command: command, arguments: arguments}
	var args struct {
		Source      json.RawMessage
		Breakpoints []json.RawMessage
	}
	if json.Unmarshal(arguments, &args) != nil {
		return nil
	}
	if command == "setBreakpoints" {
		var source struct {
			Path            string
			SourceReference json.Number
		}
		if json.Unmarshal(args.Source, &source) != nil || source.Path == "" {
			return nil
		}
		set.key, set.source = source.Path+"\x00"+string(source.SourceReference), args.Source
	}
	at := slices.IndexFunc(b.sets, func(old *breakpointSet) bool { return old.command == command && old.key == set.key })
	known := map[string]*breakpoint{}
	if at >= 0 {
		for _, p := range b.sets[at].points {
			known[p.key] = p
		}
	}
	set.wanted = args.Breakpoints
	for _, wanted := range args.Breakpoints {
		key := breakpointKey(command, wanted)
		p := known[key]
		if p == nil {
			p = &breakpoint{key: key, run: run.Number, binary: run.Binary}
			known[key] = p
		}
		set.points = append(set.points, p)
	}
	if at >= 0 {
		b.sets[at] = set
	} else {
		b.sets = append(b.sets, set)
	}
	return set
}

// breakpointKey is what a breakpoint is known by within its set. Conditions and
// the like can change without it being another one. It is as fine as Delve's.
func breakpointKey(command string, wanted json.RawMessage) string {
	var b struct {
		Line, Column         json.Number
		Name                 string
		InstructionReference string
		Offset               json.Number
		DataID               string
	}
	_ = json.Unmarshal(wanted, &b) // of a wrong type: all the same to us, Delve will say so
	switch command {
	case "setBreakpoints":
		return string(b.Line) + ":" + string(b.Column)
	case "setFunctionBreakpoints":
		return b.Name
	case "setInstructionBreakpoints":
		return b.InstructionReference + "+" + string(b.Offset)
	default:
		return b.DataID
	}
}

// unapplied is the first set that Delve does not have yet, or nil.
func (b *breakpoints) unapplied() *breakpointSet {
	for _, set := range b.sets {
		if !set.applied {
			return set
		}
	}
	return nil
}

// nameID returns an id for the client that it hasn't been told for another
// breakpoint: the preferred one if possible.
func (b *breakpoints) nameID(preferred int) int {
	if b.used == nil {
		b.used = map[int]struct{}{}
	}
	id := preferred
	for next := ownIDs + len(b.used); ; next++ {
		if _, taken := b.used[id]; !taken && id != 0 {
			b.used[id] = struct{}{}
			return id
		}
		id = next
	}
}

// ownIDs is where the ids of breakpoints begin that Delve has not named, or has
// named like an earlier one. Delve counts from 1 in each run.
const ownIDs = 1 << 20

// connected prepares all sets for a Delve that has none of them for sure: that
// of another run, or of the same one after the connection was lost.
func (b *breakpoints) connected(run Run, same bool) {
	b.sets = slices.DeleteFunc(b.sets, func(set *breakpointSet) bool {
		return !same && set.points == nil && set.command != "setExceptionBreakpoints"
	})
	for _, set := range b.sets {
		set.applied = false
		for _, p := range set.points {
			if !same {
				p.delveID = 0
				p.outdated(set.command, run)
			}
		}
	}
}

const (
	goneRebuilt = "the program was built anew: this address belongs to the binary before"
	goneProcess = "the process that this was set in has ended: set it again"
	goneFrame   = "the function that this belongs to may have ended while the connection was lost: set it again"
)

// outdated decides how, if at all, a breakpoint of an earlier run is set in
// another one.
func (p *breakpoint) outdated(command string, run Run) {
	p.gone, p.sendAs = "", ""
	switch {
	case command == "setInstructionBreakpoints" && (p.binary == "" || p.binary != run.Binary) && p.run != run.Number:
		p.gone = goneRebuilt
	case command == "setDataBreakpoints" && p.run != run.Number:
		// Delve's data ids are "goroutine,frame,expression". At the entry of a
		// process nothing but variables of packages can be found by name.
		_, rest, _ := strings.Cut(p.key, ",")
		_, expression, ok := strings.Cut(rest, ",")
		if !ok || strings.Contains(expression, "0x") || !run.Fresh || !run.Halted {
			p.gone = goneProcess
		} else if as := "-1,0," + expression; as != p.key {
			p.sendAs = as
		}
	}
}

// request is the set as it is sent to Delve: which of the wanted, and the
// arguments; own says that these are the client's.
func (set *breakpointSet) request() (sent []int, arguments json.RawMessage, own bool) {
	own = true
	for i, p := range set.points {
		if p.gone == "" {
			sent = append(sent, i)
		}
		own = own && p.gone == "" && p.sendAs == ""
	}
	if own {
		return sent, set.arguments, true
	}
	return sent, set.only(sent), false
}

// only are the arguments with no more than the given ones of the wanted.
func (set *breakpointSet) only(sent []int) json.RawMessage {
	list := []json.RawMessage{}
	for _, i := range sent {
		element := set.wanted[i]
		if as := set.points[i].sendAs; as != "" {
			element = withMember(element, "dataId", as)
		}
		list = append(list, element)
	}
	return withMember(set.arguments, "breakpoints", list)
}

// withMember is a JSON object with one of its members replaced.
func withMember(object json.RawMessage, name string, value any) json.RawMessage {
	members := map[string]json.RawMessage{}
	_ = json.Unmarshal(object, &members) // it has been decoded before
	for other := range members {
		if strings.EqualFold(other, name) {
			delete(members, other)
		}
	}
	raw, err := json.Marshal(value)
	if err == nil {
		members[name] = raw
		raw, err = json.Marshal(members)
	}
	if err != nil {
		panic(fmt.Sprintf("encoding %q: %v", name, err)) // JSON made of JSON
	}
	return raw
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
	for _, set := range b.sets {
		switch set.command {
		case "setBreakpoints":
			all = append(all, request{set.command, map[string]any{"source": set.source, "breakpoints": none}})
		case "setExceptionBreakpoints":
		default:
			all = append(all, request{set.command, map[string]any{"breakpoints": none}})
		}
	}
	return append(all, request{"setExceptionBreakpoints", map[string]any{"filters": none}})
}
