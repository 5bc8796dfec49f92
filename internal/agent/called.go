package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/go-delve/delve/pkg/logflags"

	"github.com/kubedelve/kubedelve/internal/oneshot"
)

// Called says what of a call [RunDelve] debugs (package oneshot). The zero value says
// that there is none.
type Called struct {
	PID  int
	Part Part
}

// Part is which part of a call is debugged.
type Part string

// The parts.
const (
	PartCall    Part = "call"    // the process itself, from the debug build's first instruction
	PartStarter Part = "starter" // ... and the agent is told of the init that it starts
	PartInit    Part = "init"    // the init that it starts; itself it goes on
	PartStage   Part = "stage"   // the process is an init's first stage: that init
)

// What a Delve process tells the agent while it debugs a call.
const (
	newsInit = "init" // and a PID: the call has executed an init. It waits for an acknowledgement: a byte on the lifeline
	newsLeft = "left" // the init has executed the container's program, and is nobody's any more
)

// What a Delve process says on its status pipe while it catches a call, a line each.
const (
	saidTraced  = "traced"   // what it waits for may happen: the call may execute the debug build, or leave its tracer
	saidProcess = "process " // and the PID of the process that Delve gets, if it is not the call's
)

// errEnds says that Delve's process was asked to end.
var errEnds = errors.New("delve was asked to end")

// caught is a process that is stopped, and not traced.
type caught struct {
	pid int
	err error
}

// catch stops the part of a call that is to be debugged. If this process ends meanwhile,
// the kernel lets go what is traced.
func catch(call Called, program string, status io.Writer) <-chan caught {
	done := make(chan caught, 1)
	go func() { // ends when the call has, or with this process
		traced := func() { _, _ = io.WriteString(status, saidTraced+"\n") }
		c := caught{pid: call.PID}
		switch call.Part {
		case PartInit:
			c.pid, c.err = oneshot.CatchInit(call.PID, program, traced)
		case PartStage:
			c.pid, c.err = oneshot.CatchStage(call.PID, traced)
		case PartCall, PartStarter:
			c.err = oneshot.Catch(call.PID, program, traced)
		default:
			c.err = fmt.Errorf("a call has no part %q", call.Part)
		}
		if c.pid != call.PID && c.err == nil {
			_, _ = fmt.Fprintf(status, "%s%d\n", saidProcess, c.pid)
		}
		if c.pid != 0 && c.err != nil {
			_ = syscall.Kill(c.pid, syscall.SIGCONT)
		}
		done <- c
	}()
	return done
}

// followsExec tells whether Delve is to see what a part of a call executes.
func (p Part) followsExec() bool { return p != "" && p != PartCall }

// neverMatches is a regular expression that fits nothing: Delve is to see each execve,
// and to debug none of the processes.
const neverMatches = `[^\x00-\x{10FFFF}]`

// ackPatience is how long a call may be halted for an init that the agent is told of.
const ackPatience = 30 * time.Second

// followNews tells the agent what a process executes that Delve is about to attach to.
//
// Nothing but its log says when Delve sees an execve that it does not follow; but it says
// so at the right time: while the process is stopped, and before Delve leaves it.
func followNews(part Part, pid int, acks <-chan struct{}) {
	if !part.followsExec() {
		return
	}
	news := os.NewFile(newsFD, "news")
	logflags.SetLoggerFactory(func(bool, logflags.Fields, io.Writer) logflags.Logger {
		return execLog{func(executing int) {
			switch {
			case executing == pid:
				// Delve does not come to terms with it: it would be stopped for ever. The
				// kernel lets it go, without a breakpoint, when its tracer ends.
				_, _ = fmt.Fprintln(news, newsLeft)
				os.Exit(0)
			case part == PartStarter && oneshot.IsInit(executing):
				// Pending until Delve leaves it. The agent has another tracer ready then.
				if syscall.Kill(executing, syscall.SIGSTOP) != nil {
					return
				}
				_, _ = fmt.Fprintln(news, newsInit, executing)
				timer := time.NewTimer(ackPatience)
				defer timer.Stop()
				select {
				case <-acks:
				case <-timer.C:
				}
			}
		}}
	})
}

// execLog is a log of Delve's that nobody reads but for one line.
type execLog struct{ executes func(pid int) }

// notFollowed is how the line begins, of proc.TargetGroup. A test sees that it still does.
const notFollowed = "Detaching from child target"

func (l execLog) Debugf(format string, args ...any) {
	if !strings.HasPrefix(format, notFollowed) || len(args) == 0 {
		return
	}
	if pid, ok := args[0].(int); ok {
		l.executes(pid)
	}
}

func (execLog) Infof(string, ...any)  {}
func (execLog) Warnf(string, ...any)  {}
func (execLog) Errorf(string, ...any) {}
func (execLog) Debug(...any)          {}
func (execLog) Info(...any)           {}
func (execLog) Warn(...any)           {}
func (execLog) Error(...any)          {}
