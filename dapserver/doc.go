// Package dapserver speaks the Debug Adapter Protocol to an editor and relays
// it to a headless Delve that a Launcher started elsewhere.
package dapserver
