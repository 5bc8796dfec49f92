package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubedelve/kubedelve/internal/dapterminal"
)

// dapFlags are those of a debugger in the terminal for any debug adapter.
type dapFlags struct {
	adapter, configuration string
}

func (f *dapFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.adapter, "dap", "", "be a debugger for any debug adapter: HOST:PORT, or a command like \"kubedelve dap\" or 'dlv dap --listen 127.0.0.1:${port}'")
	cmd.Flags().StringVar(&f.configuration, "config", "", "with --dap: the arguments of the request launch or attach, as JSON or a file of it (default {\"request\": \"attach\", \"mode\": \"remote\"})")
}

// check refuses what --dap has no use for.
func (f *dapFlags) check(cmd *cobra.Command, args []string) error {
	if f.adapter == "" {
		if f.configuration != "" {
			return errors.New("--config takes --dap")
		}
		return nil
	}
	if len(args) > 0 {
		return fmt.Errorf("--dap takes no target: what is debugged is in --config, not %q", args)
	}
	var others []string
	cmd.Flags().Visit(func(flag *pflag.Flag) { // those of all commands, too
		if flag.Name != "dap" && flag.Name != "config" {
			others = append(others, "--"+flag.Name)
		}
	})
	if len(others) > 0 {
		return fmt.Errorf("%s: with --dap all is in --config, or in the adapter's own command line", strings.Join(others, ", "))
	}
	return nil
}

// run is a debugger in this terminal. Ctrl-C is the debugger's meanwhile.
func (f *dapFlags) run(cmd *cobra.Command) error {
	configuration, err := readConfiguration(f.configuration)
	if err != nil {
		return usagef(cmd, "--config: %w", err)
	}
	adapter, err := dapterminal.NewConnector(f.adapter, os.Stderr)
	if err != nil {
		return usagef(cmd, "--dap: %w", err)
	}
	history := ""
	if dir, err := os.UserConfigDir(); err == nil {
		history = filepath.Join(dir, "kubedelve", "history")
	}
	ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	keyboard, err := dapterminal.OpenKeyboard(history)
	if err != nil {
		return fmt.Errorf("what was typed before: %w", err)
	}
	err = dapterminal.Run(ctx, dapterminal.Options{
		Adapter: adapter, Configuration: configuration, Lines: keyboard, Out: cmd.OutOrStdout(), Interrupts: interrupts,
	})
	return errors.Join(err, keyboard.Close())
}

// readConfiguration reads an object, or a file that has one. A request that is not
// named is the one of the default.
func readConfiguration(text string) (map[string]any, error) {
	configuration := map[string]any{}
	switch trimmed := strings.TrimSpace(text); {
	case trimmed == "":
		configuration["mode"] = "remote"
	case strings.HasPrefix(trimmed, "{"):
		if err := decodeObject([]byte(trimmed), &configuration); err != nil {
			return nil, err
		}
	default:
		data, err := os.ReadFile(text)
		if err != nil {
			return nil, fmt.Errorf("it is no JSON object, so it is taken for a file: %w", err)
		}
		if err := decodeObject(data, &configuration); err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
	}
	if _, named := configuration["request"]; !named {
		configuration["request"] = "attach"
		if _, program := configuration["program"]; program {
			configuration["request"] = "launch"
		}
	}
	return configuration, nil
}

func decodeObject(data []byte, out *map[string]any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(out); err != nil {
		return fmt.Errorf("that is no JSON object: %w", err)
	}
	if decoder.More() {
		return errors.New("there is more than one JSON object")
	}
	return nil
}
