package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestEnsureBuildsOnce(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "cache"))
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, _, err := dir.Ensure(t.Context(), "thing", "key", func(_ context.Context, tmp string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(tmp, "file"), []byte("content"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(got) != "content" {
				t.Errorf("the entry holds %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times and not once", n)
	}
}

func TestEnsureLeavesNothingOfAFailedBuild(t *testing.T) {
	dir := Dir(t.TempDir())
	broken := errors.New("broken")
	_, _, err := dir.Ensure(t.Context(), "thing", "key", func(_ context.Context, tmp string) error {
		if err := os.WriteFile(filepath.Join(tmp, "half"), nil, 0o644); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got the error %v and not the build's", err)
	}
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestEnsureRemovesWhatAKilledBuildLeft(t *testing.T) {
	dir := Dir(t.TempDir())
	left := filepath.Join(string(dir), ".thing-old.tmp")
	if err := os.MkdirAll(filepath.Join(left, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, built, err := dir.Ensure(t.Context(), "thing", "key", func(context.Context, string) error { return nil }); err != nil || !built {
		t.Fatalf("built=%v, %v", built, err)
	}
	if exists(left) {
		t.Error("the old build's folder is still there")
	}
}

func TestLockWaitsUntilTheContextEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("a second lock gave %v and not the context's end", err)
	}
	unlock()
	again, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestKeyDependsOnEveryPart(t *testing.T) {
	key := func(parts ...string) string {
		var k Key
		return k.Add(parts...).String()
	}
	if key("a", "b") == key("ab") || key("a") == key("b") {
		t.Error("different parts give one key")
	}
	if again := key("a", "b"); key("a", "b") != again {
		t.Error("the same parts give two keys")
	}
}
