package agent

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

func newLayout(t testing.TB) layout {
	t.Helper()
	d := layout(t.TempDir())
	if err := d.prepare(); err != nil {
		t.Fatal(err)
	}
	return d
}

func describe(content []byte, name string) agentapi.File {
	sum := sha256.Sum256(content)
	return agentapi.File{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)), Name: name}
}

func compressed(t testing.TB, content []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = z.Close() }()
	return z.EncodeAll(content, nil)
}

func TestStoreTakesOnlyWhatWasPromised(t *testing.T) {
	content := make([]byte, 300<<10)
	_, _ = rand.Read(content)
	file := describe(content, "app")
	sent := compressed(t, content)
	flipped := bytes.Clone(sent)
	flipped[len(flipped)/2] ^= 1
	other := bytes.Clone(content)
	other[0] ^= 1
	for _, test := range []struct {
		name string
		sent []byte
		want string // part of the error; empty: none
	}{
		{"the file", sent, ""},
		{"the file in two frames", append(compressed(t, content[:1000]), compressed(t, content[1000:])...), ""},
		{"nothing", nil, "got 0 bytes, not 307200"},
		{"half of it", sent[:len(sent)/2], "unexpected EOF"},
		{"all but a byte", sent[:len(sent)-1], "unexpected EOF"},
		{"a frame too few", compressed(t, content[:1000]), "got 1000 bytes, not 307200"},
		{"a byte too much", compressed(t, append(bytes.Clone(content), 0)), "more than its 307200 bytes"},
		{"a bomb", compressed(t, make([]byte, 64<<20)), "more than its 307200 bytes"},
		{"a bit that flipped on the way", flipped, "storing app"},
		{"another file", compressed(t, other), "SHA-256"},
		{"no zstd", content, "storing app"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLayout(t)
			err := d.store(file, bytes.NewReader(test.sent))
			path, _ := d.path(file)
			stored, readErr := os.ReadFile(path)
			if test.want == "" {
				info, _ := os.Stat(path)
				if err != nil || readErr != nil || !bytes.Equal(stored, content) || info.Mode().Perm() != 0o755 {
					t.Errorf("got %v, %v, %d bytes", err, readErr, len(stored))
				}
			} else if err == nil || !strings.Contains(err.Error(), test.want) || readErr == nil {
				t.Errorf("got error %v and file %v; want %q and no file", err, readErr, test.want)
			}
			if left, _ := filepath.Glob(filepath.Join(d.incoming(), incomingPrefix+"*")); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func FuzzStore(f *testing.F) {
	content := []byte("hello")
	f.Add(compressed(f, content))
	f.Add([]byte{})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	file := describe(content, "app")
	d := newLayout(f)
	f.Fuzz(func(t *testing.T, sent []byte) {
		path, _ := d.path(file)
		_ = os.Remove(path)
		err := d.store(file, bytes.NewReader(sent))
		stored, readErr := os.ReadFile(path)
		if err == nil && string(stored) != "hello" || err != nil && readErr == nil {
			t.Errorf("stored %q with error %v", stored, err)
		}
	})
}

func TestOldBinariesArePruned(t *testing.T) {
	d := newLayout(t)
	var files []agentapi.File
	now := time.Now()
	for i := range 6 {
		content := fmt.Appendf(nil, "binary %d", i)
		file := describe(content, "app")
		if err := d.store(file, bytes.NewReader(compressed(t, content))); err != nil {
			t.Fatal(err)
		}
		at := now.Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(filepath.Join(d.incoming(), file.SHA256), at, at); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	d.touch(files[1]) // was asked for again
	d.prune([]string{files[0].SHA256})
	for i, file := range files {
		path, _ := d.path(file)
		if got, want := exists(path), i == 0 || i == 1 || i == 5; got != want {
			t.Errorf("binary %d is there: %v; want %v", i, got, want)
		}
	}
}

func TestAFullDiskIsTold(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system takes root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := layout(dir)
	if err := d.prepare(); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 4<<20)
	_, _ = rand.Read(content)
	file := describe(content, "app")
	for name, err := range map[string]error{
		"before": d.room(file),
		"while":  d.store(file, bytes.NewReader(compressed(t, content))),
	} {
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "storing app") {
			t.Errorf("%s sending: got %v; want ENOSPC", name, err)
		}
	}
	if err := d.room(describe(content[:1000], "app")); err != nil {
		t.Errorf("a small one: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.incoming(), "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestAFolderWithoutExecIsTold(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting takes root")
	}
	dir, err := os.MkdirTemp("", "agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_NOEXEC, "size=64m"); err != nil {
		t.Skipf("no tmpfs can be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	r := newRigIn(t, dir, nil)
	c := r.client("test")
	_, err = c.Start(t.Context(), agentapi.Start{File: put(t, c, programs.component)})
	if err == nil || !strings.Contains(err.Error(), "noexec") {
		t.Errorf("got %v; want a word about noexec", err)
	}
}

func TestALargeUploadTakesLittleMemory(t *testing.T) {
	const blocks = 200
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block)
	frame := compressed(t, block) // the same one many times: compressing is not the test
	hash := sha256.New()
	for range blocks {
		_, _ = hash.Write(block)
	}
	file := agentapi.File{SHA256: hex.EncodeToString(hash.Sum(nil)), Size: blocks << 20, Name: "large"}
	r := newRig(t, nil)
	session := r.session()
	stream, err := session.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	answers := bufio.NewReader(stream)
	var reply agentapi.Reply
	if err := errors.Join(agentapi.WriteMessage(stream, agentapi.Request{Op: agentapi.OpPut, Put: &file}), agentapi.ReadMessage(answers, &reply)); err != nil || reply.Error != "" {
		t.Fatalf("got %+v, %v", reply, err)
	}
	for range blocks {
		if _, err := stream.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	_ = stream.CloseWrite()
	if err := agentapi.ReadMessage(answers, &reply); err != nil || reply.Error != "" {
		t.Fatalf("got %+v, %v", reply, err)
	}
	peak := peakMemory(t, r.cmd.Process.Pid)
	t.Logf("the agent took %d MiB", peak>>20)
	if peak > 64<<20 {
		t.Error("that is more than 64 MiB")
	}
	c := agentapi.NewClient(session, "test")
	if sent, err := c.Put(t.Context(), file, nil); err != nil || sent != 0 {
		t.Errorf("the second time: %d bytes, %v; want none", sent, err)
	}
}

func TestInstallCopiesAtOnce(t *testing.T) {
	dir := t.TempDir()
	want, err := os.ReadFile(programs.agent)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, Executable)
	// What an interrupted copy left behind is in nobody's way.
	if err := os.WriteFile(target+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			if info, err := os.Stat(target); err == nil && (info.Size() != int64(len(want)) || info.Mode().Perm() != 0o755) {
				t.Errorf("seen with %d bytes, mode %v", info.Size(), info.Mode())
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 3 {
		if out, err := exec.Command(programs.agent, "install", dir).CombinedOutput(); err != nil {
			t.Errorf("install: %v\n%s", err, out)
		}
	}
	close(stop)
	watching.Wait()
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
	if out, err := exec.Command(target, "version").CombinedOutput(); err != nil || !strings.Contains(string(out), "delve "+DelveVersion()) {
		t.Errorf("version: %q, %v", out, err)
	}
	if out, err := exec.Command(programs.agent, "install", filepath.Join(dir, "none")).CombinedOutput(); err == nil {
		t.Errorf("into no folder: %s", out)
	}
}

func TestReportCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "message")
	if err := ReportCommand(os.Getpid(), file); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); !strings.HasPrefix(string(got), `["`+os.Args[0]+`"`) {
		t.Errorf("got %s", got)
	}
	if err := ReportCommand(2, file); err == nil && os.Getpid() > 2 {
		if cmdline, _ := os.ReadFile("/proc/2/cmdline"); len(cmdline) == 0 {
			t.Error("a process without a command line: no error")
		}
	}
}

func TestALongSocketPathIsTold(t *testing.T) {
	_, err := listenUnix("/tmp/" + strings.Repeat("x", 110))
	if err == nil || !strings.Contains(err.Error(), "longer than a socket's") {
		t.Errorf("got %v", err)
	}
}
