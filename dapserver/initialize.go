package dapserver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/google/go-dap"
)

// capabilities are what the client is told before Delve is there to ask. They
// are those of Delve 1.27 on Linux (service/dap/server.go, onInitializeRequest)
// and those of ownCapabilities. Where the real Delve differs, an event says so
// later.
func capabilities() dap.Capabilities {
	return dap.Capabilities{
		SupportsConfigurationDoneRequest:   true,
		SupportsConditionalBreakpoints:     true,
		SupportsHitConditionalBreakpoints:  true,
		SupportsDelayedStackTraceLoading:   true,
		SupportsFunctionBreakpoints:        true,
		SupportsInstructionBreakpoints:     true,
		SupportsExceptionInfoRequest:       true,
		SupportsSetVariable:                true,
		SupportsEvaluateForHovers:          true,
		SupportsClipboardContext:           true,
		SupportsSteppingGranularity:        true,
		SupportsLogPoints:                  true,
		SupportsDisassembleRequest:         true,
		SupportsReadMemoryRequest:          true,
		SupportsWriteMemoryRequest:         true,
		SupportsDataBreakpoints:            true,
		SupportsLoadedSourcesRequest:       true,
		SupportsBreakpointLocationsRequest: true,
		SupportsModulesRequest:             true,
		SupportsCompletionsRequest:         true,
		SupportsRestartRequest:             true,
		SupportsTerminateRequest:           true,
		SupportsCancelRequest:              true,
		AdditionalModuleColumns:            moduleColumns(),
		ExceptionBreakpointFilters: []dap.ExceptionBreakpointsFilter{
			{Filter: "unrecovered-panic", Label: "Unrecovered Panics", Default: true},
			{Filter: "runtime-fatal-throw", Label: "Fatal Throws", Default: true},
		},
	}
}

// ownCapabilities are the ones that Delve has no say in: the requests are
// answered here.
var ownCapabilities = map[string]bool{
	"supportsRestartRequest":             true,
	"supportsTerminateRequest":           true,
	"supportsCancelRequest":              true,
	"supportsLoadedSourcesRequest":       true,
	"supportsBreakpointLocationsRequest": true,
	"supportsModulesRequest":             true,
	"supportsCompletionsRequest":         true,
	"additionalModuleColumns":            true,
}

// changedCapabilities returns those that differ between what the client was
// told and the body of Delve's answer to initialize.
func changedCapabilities(delve json.RawMessage) (map[string]any, error) {
	b, err := json.Marshal(capabilities())
	if err != nil {
		return nil, err
	}
	var told, real map[string]any
	if err := json.Unmarshal(b, &told); err != nil {
		return nil, err
	}
	if !empty(delve) {
		if err := json.Unmarshal(delve, &real); err != nil {
			return nil, err
		}
	}
	changed := map[string]any{}
	for name, value := range real {
		// To say false and to say nothing are the same.
		if !ownCapabilities[name] && !reflect.DeepEqual(told[name], value) && !(value == false && told[name] == nil) {
			changed[name] = value
		}
	}
	for name, value := range told {
		if _, ok := real[name]; !ok && !ownCapabilities[name] {
			switch value.(type) {
			case bool:
				changed[name] = false
			case []any:
				changed[name] = []any{}
			}
		}
	}
	return changed, nil
}

// hasty are clients that kill the adapter when terminate is answered, which it is before all is put
// back, and wait for the end of disconnect: they are told to do that. (dape, the one of Emacs: dape-kill
// in dape.el, 0.27.)
var hasty = []string{"dape"}

// onInitialize answers at once: Delve is not there yet, and the editor shows
// nothing of a launch before it has the answer.
func (s *session) onInitialize(ctx context.Context, m message) {
	var args struct {
		PathFormat      *string `json:"pathFormat"`
		LinesStartAt1   *bool   `json:"linesStartAt1"`
		ColumnsStartAt1 *bool   `json:"columnsStartAt1"`
		Progress        bool    `json:"supportsProgressReporting"`
		StartDebugging  bool    `json:"supportsStartDebuggingRequest"`
		ClientID        string  `json:"clientID"`
		ClientName      string  `json:"clientName"`
		Invalidated     bool    `json:"supportsInvalidatedEvent"`
	}
	raw := m.env.body.in(m.raw)
	if empty(raw) {
		raw = []byte("{}")
	}
	var all map[string]json.RawMessage
	err := json.Unmarshal(raw, &args)
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	refuse := func(details string) {
		s.fail(ctx, &m.env, &requestError{idFailedToInitialize, "Failed to initialize", details, true})
	}
	switch {
	case err != nil:
		s.fail(ctx, &m.env, &requestError{idMalformed, "Malformed request", err.Error(), false})
		return
	// What Delve can't do is said now, not after a build.
	case args.PathFormat != nil && *args.PathFormat != "path":
		refuse(fmt.Sprintf("unsupported \"pathFormat\" %q: Delve has only \"path\"", *args.PathFormat))
		return
	case args.LinesStartAt1 != nil && !*args.LinesStartAt1:
		refuse("only line numbers that start at 1 are supported")
		return
	case args.ColumnsStartAt1 != nil && !*args.ColumnsStartAt1:
		refuse("only column numbers that start at 1 are supported")
		return
	}
	// These are the protocol's defaults, but Delve refuses a client that
	// relies on them.
	for name, value := range map[string]string{"pathFormat": `"path"`, "linesStartAt1": "true", "columnsStartAt1": "true"} {
		if empty(all[name]) {
			all[name] = json.RawMessage(value)
		}
	}
	arguments, err := json.Marshal(all)
	again := false
	s.update(func(st *state) {
		if again = st.phase != phaseNew; again || err != nil {
			return
		}
		st.phase = phaseInitialized
		st.client = client{
			name: cmp.Or(args.ClientName, args.ClientID), arguments: arguments,
			progress: args.Progress, startDebugging: args.StartDebugging, invalidated: args.Invalidated,
		}
	})
	switch {
	case again:
		s.fail(ctx, &m.env, &requestError{idAlreadyInitialized, "Already initialized", "", false})
	case err != nil:
		s.fail(ctx, &m.env, &requestError{idInternal, "Internal error", err.Error(), false})
	default:
		can := capabilities()
		can.SupportsTerminateRequest = !slices.Contains(hasty, args.ClientID)
		s.respond(ctx, &m.env, can)
	}
}
