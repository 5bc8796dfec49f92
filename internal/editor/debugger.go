package editor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/go-dap"
)

// Debugger is a debug session as the user of an editor has it.
type Debugger struct {
	*Client
	thread int          // that stopped last
	marks  map[int]mark // the breakpoints, by id
}

// Start sends what an editor sends to begin: request is "launch" or "attach" and
// config its configuration. It returns when the component is on its way, with all
// breakpoints verified, and with the times when that was so.
func Start(ctx context.Context, conn io.ReadWriteCloser, request string, config map[string]any, breakpoints ...Breakpoint) (d *Debugger, armed time.Time, err error) {
	d = &Debugger{Client: New(conn), marks: map[int]mark{}}
	armed, err = d.start(ctx, request, config, breakpoints)
	return d, armed, err
}

func (d *Debugger) start(ctx context.Context, request string, config map[string]any, breakpoints []Breakpoint) (armed time.Time, err error) {
	if err := d.initialize(ctx); err != nil {
		return armed, err
	}
	answer, err := d.Send(request, config)
	if err != nil {
		return armed, err
	}
	if err := d.awaitInitialized(ctx, answer); err != nil {
		return armed, err
	}
	if err := d.SetBreakpoints(ctx, breakpoints...); err != nil {
		return armed, err
	}
	armed = time.Now()
	if err := d.Call(ctx, "configurationDone", map[string]any{}, nil); err != nil {
		return armed, err
	}
	return armed, answer.Wait(ctx, nil)
}

func (d *Debugger) initialize(ctx context.Context) error {
	var can dap.Capabilities
	err := d.Call(ctx, "initialize", dap.InitializeRequestArguments{
		ClientID: "editor", ClientName: "a scripted editor", AdapterID: "kubedelve", Locale: "en",
		LinesStartAt1: true, ColumnsStartAt1: true, PathFormat: "path",
		SupportsVariableType: true, SupportsVariablePaging: true, SupportsProgressReporting: true, SupportsInvalidatedEvent: true,
		SupportsStartDebuggingRequest: d.opens,
	}, &can)
	if err == nil && (!can.SupportsConfigurationDoneRequest || !can.SupportsSetVariable || !can.SupportsConditionalBreakpoints) {
		err = fmt.Errorf("the adapter lacks capabilities that Delve has: %+v", can)
	}
	return err
}

// awaitInitialized waits for the event, or for the refusal of the request.
func (d *Debugger) awaitInitialized(ctx context.Context, answer *Answer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	refused := make(chan struct{})
	go func() { // ends with the answer, or with this function
		defer close(refused)
		select {
		case m := <-answer.arrived:
			answer.arrived <- m
			if !m.Success {
				cancel(refusal(m))
			}
		case <-ctx.Done():
		}
	}()
	_, err := d.Next(ctx, "initialized")
	cancel(nil)
	<-refused
	return err
}

// AwaitOutput waits for an output event with the text.
func (d *Debugger) AwaitOutput(ctx context.Context, text string) (Event, error) {
	e, err := d.Find(ctx, "output", func(body json.RawMessage) bool {
		var output dap.OutputEventBody
		return json.Unmarshal(body, &output) == nil && strings.Contains(output.Output, text)
	})
	if err != nil {
		err = fmt.Errorf("no output %q: %w", text, err)
	}
	return e, err
}

// AwaitProgress waits until something begins whose title has the text.
func (d *Debugger) AwaitProgress(ctx context.Context, title string) error {
	_, err := d.Find(ctx, "progressStart", func(body json.RawMessage) bool {
		var start dap.ProgressStartEventBody
		return json.Unmarshal(body, &start) == nil && strings.Contains(start.Title, title)
	})
	if err != nil {
		err = fmt.Errorf("no progress %q: %w", title, err)
	}
	return err
}

// AwaitStop waits until the component stops, for the reason.
func (d *Debugger) AwaitStop(ctx context.Context, reason string) error {
	e, err := d.Next(ctx, "stopped")
	if err != nil {
		return err
	}
	var stopped dap.StoppedEventBody
	if err := json.Unmarshal(e.Body, &stopped); err != nil {
		return fmt.Errorf("the event stopped: %w", err)
	}
	if stopped.Reason != reason || stopped.ThreadId == 0 {
		return fmt.Errorf("stopped with %s, not by a %s", e.Body, reason)
	}
	d.thread = stopped.ThreadId
	return nil
}

// Stack is that of the goroutine that stopped.
func (d *Debugger) Stack(ctx context.Context) ([]dap.StackFrame, error) {
	var stack dap.StackTraceResponseBody
	err := d.Call(ctx, "stackTrace", dap.StackTraceArguments{ThreadId: d.thread, Levels: 20}, &stack)
	return stack.StackFrames, err
}

// Locals are the arguments and local variables of a frame; the reference is for
// [Debugger.Set].
func (d *Debugger) Locals(ctx context.Context, frame int) (variables []dap.Variable, reference int, err error) {
	var scopes dap.ScopesResponseBody
	if err := d.Call(ctx, "scopes", dap.ScopesArguments{FrameId: frame}, &scopes); err != nil {
		return nil, 0, err
	}
	i := slices.IndexFunc(scopes.Scopes, func(s dap.Scope) bool { return s.Name == "Locals" })
	if i < 0 {
		return nil, 0, fmt.Errorf("there is no scope Locals in %+v", scopes.Scopes)
	}
	reference = scopes.Scopes[i].VariablesReference
	variables, err = d.Children(ctx, reference)
	return variables, reference, err
}

// Children are the parts of a variable.
func (d *Debugger) Children(ctx context.Context, reference int) ([]dap.Variable, error) {
	var body dap.VariablesResponseBody
	err := d.Call(ctx, "variables", dap.VariablesArguments{VariablesReference: reference}, &body)
	return body.Variables, err
}

// Variable finds a variable by its name.
func Variable(variables []dap.Variable, name string) (dap.Variable, error) {
	var names []string
	for _, v := range variables {
		if v.Name == name {
			return v, nil
		}
		names = append(names, v.Name)
	}
	return dap.Variable{}, fmt.Errorf("there is no variable %s among %q", name, names)
}

// Set changes a variable.
func (d *Debugger) Set(ctx context.Context, reference int, name, value string) error {
	var set dap.SetVariableResponseBody
	err := d.Call(ctx, "setVariable", dap.SetVariableArguments{VariablesReference: reference, Name: name, Value: value}, &set)
	if err == nil && set.Value != value {
		err = fmt.Errorf("%s is %q after it was set to %q", name, set.Value, value)
	}
	return err
}

// Continue lets the component go on.
func (d *Debugger) Continue(ctx context.Context) error {
	return d.Call(ctx, "continue", dap.ContinueArguments{ThreadId: d.thread}, nil)
}

// StepOver lets the goroutine that stopped go to the next line.
func (d *Debugger) StepOver(ctx context.Context) error {
	if err := d.Call(ctx, "next", dap.NextArguments{ThreadId: d.thread}, nil); err != nil {
		return err
	}
	return d.AwaitStop(ctx, "step")
}

// Restart is the editor's restart button; config is the launch configuration as it is
// now.
func (d *Debugger) Restart(ctx context.Context, config map[string]any) error {
	return d.Call(ctx, "restart", map[string]any{"arguments": config}, nil)
}

// Disconnect ends the session as the editor's stop button does, and returns when
// the adapter has hung up.
func (d *Debugger) Disconnect(ctx context.Context) error {
	if err := d.Call(ctx, "disconnect", dap.DisconnectArguments{}, nil); err != nil {
		return err
	}
	if _, err := d.Next(ctx, "terminated"); err != nil {
		return err
	}
	select {
	case <-d.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the adapter to hang up after disconnect: %w", context.Cause(ctx))
	}
}
