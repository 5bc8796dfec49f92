// Package reload keeps a running program up to date with its sources: when a file that
// belongs to it is saved it is built again in the background, and what comes out is
// swapped in. It knows neither where the program runs nor who debugs it.
//
// # Invariants
//
//   - The old program goes on until the new one has been built without an error and
//     loaded. Whatever fails, or is cancelled, leaves it alone.
//   - Of two saves the later one counts: it cancels a build that runs and takes its
//     place, and what waits for the one waits for the other. A swap is not cancelled,
//     since it can't be known how far it got; the next build runs beside it.
//   - No save is missed: what is watched is known before it is compiled, and saves
//     before Run are kept.
//   - What is the same program as the running one is not swapped in, unless that was
//     asked for.
//   - A binary's file stays for as long as it runs, and longer if a swap has failed.
//
// # Goroutines
//
// Run is called in one of the caller's, and has at most two builds (one of them
// cancelled) and one swap beside it, for which it waits. The watcher has its own. All
// have ended when Run and Close have returned.
package reload
