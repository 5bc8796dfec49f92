package packages

import (
	"debug/elf"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

var triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

// libraryFolders are where programs of the distribution find libraries without help.
func libraryFolders() []string {
	t := triplets[runtime.GOARCH]
	return []string{"lib/" + t, "lib64", "lib"}
}

func (s Set) libraries() []string {
	var dirs []string
	if s.Layer != "" {
		for _, d := range libraryFolders() {
			dirs = append(dirs, filepath.Join(s.Layer, "usr", d))
		}
	}
	return dirs
}

// Closure lists a program and all it is linked with, as paths below /usr ("sbin/nft",
// "lib/x86_64-linux-gnu/libc.so.6"), for an image that holds nothing else. The
// program's interpreter is the last entry.
func (s Set) Closure(program string) ([]string, error) {
	files := []string{program}
	interpreter := ""
	for i := 0; i < len(files); i++ {
		place := s.Find(files[i])
		if place == "" {
			return nil, fmt.Errorf("%s: not found", files[i])
		}
		f, err := elf.Open(place)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", place, err)
		}
		libs, err := f.ImportedLibraries()
		if interpreter == "" {
			interpreter = interp(f)
		}
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", place, err)
		}
		for _, l := range libs {
			file := ""
			for _, d := range libraryFolders() {
				if s.Find(d+"/"+l) != "" {
					file = d + "/" + l
					break
				}
			}
			if file == "" {
				return nil, fmt.Errorf("%s needs the library %s, which is not there", files[i], l)
			}
			if !slices.Contains(files, file) {
				files = append(files, file)
			}
		}
	}
	if interpreter != "" {
		// "/lib64/ld-linux-x86-64.so.2" is below /usr on a merged system.
		files = append(files, strings.TrimPrefix(strings.TrimPrefix(interpreter, "/usr"), "/"))
	}
	return files, nil
}

func interp(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			data := make([]byte, p.Filesz)
			if _, err := p.ReadAt(data, 0); err == nil {
				return strings.TrimRight(string(data), "\x00")
			}
		}
	}
	return ""
}
