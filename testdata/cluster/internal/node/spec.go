package node

// A Spec says how a node is made. The starter sends it to the node's first process.
type Spec struct {
	Name    string            // host name
	Cgroup  string            // name of the node's cgroup
	Plan    Plan              // addresses
	Root    string            // folder that becomes "/"; its content is the node's
	Lower   []string          // layers of /usr, topmost first
	Upper   string            // folder for what the node changes in /usr
	Shield  map[string]string // files of /proc/sys that show this value and take no writes to the machine
	Sysctls map[string]string // settings of the node's own namespaces
	Init    []string          // what becomes PID 1
	Leaf    bool              // init does not manage cgroups: with cgroup v2, prepare them for it
	Env     []string
	Console string // file for what PID 1 prints
}

// wire is what goes through the pipe to the first process.
type wire struct {
	Spec
	Trees []hierarchy
}
