package state

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Identify returns the process that has this PID now.
func Identify(pid int) (Process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	start, err := startTime(data)
	if err != nil {
		return Process{}, fmt.Errorf("reading the start time of process %d: %w", pid, err)
	}
	return Process{PID: pid, Start: start}, nil
}

// Alive says whether this very process is there and is no zombie.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return false
	}
	start, err := startTime(data)
	if err != nil || start != p.Start {
		return false
	}
	after := bytes.TrimLeft(data[bytes.LastIndexByte(data, byte(41))+1:], " ")
	return len(after) > 0 && after[0] != 'Z' && after[0] != 'X'
}

// startTime takes field 22 of a /proc/PID/stat line. The command name in field 2
// may hold blanks and parentheses, so counting starts after the last one.
func startTime(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, fmt.Errorf("no command name in %q", stat)
	}
	fields := bytes.Fields(stat[end+1:])
	const index = 22 - 3 // the first field after the name is number 3
	if len(fields) <= index {
		return 0, fmt.Errorf("only %d fields in %q", len(fields), stat)
	}
	return strconv.ParseUint(string(fields[index]), 10, 64)
}
