package agent

import "fmt"

// Several calls of a program can be debugged at a time, each by a debugger of its own
// (agentapi.CallFilter.Lanes). A lane is what an agent is to one component: its runs, its
// debugger, the dead-man's switch that resumes it. What the agent is to its clients and to
// the node (the port, the session's time to live, the binaries) the lanes have in common.

// openLanes makes the further lanes, before Run.
func (a *Agent) openLanes(lanes int) {
	for rank := 1; rank < lanes; rank++ {
		lane := blank()
		lane.cfg, lane.dir, lane.log, lane.version, lane.self = a.cfg, a.dir, a.log.With("lane", rank), a.version, a.self
		lane.children, lane.loads = a.children, a.loads
		lane.post, lane.rank = a.post, rank
		lane.cfg.TTL = 0 // the session's end is not a lane's to decide
		lane.update(func() {})
		a.lanes = append(a.lanes, lane)
	}
}

// lane returns one of the further lanes.
func (a *Agent) lane(rank int) (*Agent, error) {
	if rank > len(a.lanes) {
		return nil, fmt.Errorf("there is no lane %d: %d calls are debugged at a time", rank, 1+len(a.lanes))
	}
	return a.lanes[rank-1], nil
}
