// Package watch tells when the contents of source files change.
//
// It watches folders, not files, since most editors save by writing another file and
// renaming it: vim, Emacs, JetBrains ("safe write"), gofmt -w, sed -i. What the kernel
// tells is only taken for a hint: after a short quiet time the files that it is about
// are read and compared by hash with what they were. So a burst of writes counts once,
// and a save that changes nothing does not count.
//
// What events can't tell is looked for: folders that are not there yet, or were
// removed, come back within a quarter of a second; a folder that is reached by a
// symbolic link that now leads elsewhere, or by way of a parent that was replaced, is
// noticed within two seconds. If events were lost because there were too many, all is
// compared. Where the kernel's limits leave no room for more watches, the user is told
// which to raise, and the files' times are looked at twice a second instead.
//
// It knows nothing of Go, and does nothing with what it finds but tell it.
//
// # Goroutines
//
// One of a Watcher's own, which calls Changed, and one of fsnotify's. Both have ended
// when Close returns, and the descriptors are closed.
package watch
