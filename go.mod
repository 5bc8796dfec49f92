module github.com/kubedelve/kubedelve

go 1.26.0

require (
	github.com/go-delve/delve v1.27.2
	github.com/hashicorp/yamux v0.1.2
	github.com/klauspost/compress v1.20.3
	golang.org/x/sys v0.47.0
)

require (
	github.com/cilium/ebpf v0.22.0 // indirect
	github.com/google/go-dap v0.12.0 // indirect
	github.com/mattn/go-isatty v0.0.20 // indirect
	go.yaml.in/yaml/v3 v3.0.4 // indirect
	golang.org/x/arch v0.28.0 // indirect
	golang.org/x/net v0.57.0 // indirect
	golang.org/x/telemetry v0.0.0-20241106142447-58a1122356f5 // indirect
	gopkg.in/check.v1 v1.0.0-20201130134442-10cb98267c6c // indirect
)
