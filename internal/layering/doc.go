// Package layering has no code, only a test: which package may import which, and
// why. It is a table, so that a new edge is a decision and not an accident.
package layering
