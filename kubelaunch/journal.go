package kubelaunch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// What marks our objects.
const (
	labelManagedBy  = "app.kubernetes.io/managed-by"
	managedBy       = "kubedelve"
	labelSession    = "kubedelve.dev/session"
	secretType      = corev1.SecretType("kubedelve.dev/session")
	journalKey      = "journal.json"
	agentKey        = "agent.json"
	journalVersion  = 1
	fieldManager    = "kubedelve"
	secretPrefix    = "kubedelve-"
	sessionSelector = labelManagedBy + "=" + managedBy + "," + labelSession
)

// record is what the journal holds of a session. It is all that undo needs.
type record struct {
	Version   int       `json:"version"`
	Session   string    `json:"session"`
	Target    string    `json:"target"` // as users write it
	UID       types.UID `json:"uid"`    // of the target's object
	Container string    `json:"container"`
	Owner     string    `json:"owner"` // user@host, for messages only
	Program   string    `json:"program,omitempty"`
	Created   time.Time `json:"created"`
	// Port and the client's identity let another machine take the session over.
	Port   int             `json:"port"`
	Client tunnel.Identity `json:"client"`
	Agent  string          `json:"agent"` // the agent's pin
	Steps  []step          `json:"steps"`
	// Pods is how many pods the session has made, or is about to: it names the next one.
	Pods int `json:"pods,omitempty"`
	// Ending names who undoes the session from elsewhere: whoever began it must not
	// change anything from then on.
	Ending string `json:"ending,omitempty"`
	// Image and PullPolicy bring a helper to a node once more, to undo what is there.
	Image      string            `json:"image,omitempty"`
	PullPolicy corev1.PullPolicy `json:"pullPolicy,omitempty"`
}

// step is one change that was made or was about to be.
type step struct {
	Kind string `json:"kind"`
	Pod  string `json:"pod,omitempty"`
	// UID is the pod's, where it is not one that only we can have named.
	UID types.UID `json:"uid,omitempty"`
	// Replica says which of the session's replicas the pod is: 0 is the first (stepPod).
	Replica int `json:"replica,omitempty"`
	// Hash is the pod-template-hash that the pod was given (stepAdopt).
	Hash string `json:"hash,omitempty"`
	From int32  `json:"from,omitempty"` // stepScale: spec.replicas before
	To   int32  `json:"to,omitempty"`   // stepScale: and after
}

// The kinds of steps.
const (
	stepPod   = "pod"   // our pod is created
	stepAdopt = "adopt" // our pod joins the ReplicaSet
	stepScale = "scale" // spec.replicas is changed
	stepPeek  = "peek"  // a pod gets an ephemeral container

	stepNamespace = "namespace" // the session has a namespace of its own, with the journal in it
	stepHelper    = "helper"    // a helper's pod is created on a node
	stepEngage    = "engage"    // a service of the node is replaced
)

// journal is the record of one session, kept in a Secret that also brings the
// agent its key. Several goroutines may call add, change, steps, forget and refresh;
// the rest belongs to one, before a session begins or when it has ended.
type journal struct {
	cluster *Cluster

	mu     sync.Mutex // guards all below, also while it is written
	secret *corev1.Secret
	record record
	done   map[string]bool // pods that don't exist any more, see forget
}

// openJournal claims the target: it fails with [ErrSession] if somebody has.
func openJournal(ctx context.Context, c *Cluster, name string, r record, agent agentapi.Config) (*journal, error) {
	agentJSON, err := json.Marshal(agent)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	journalJSON, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: c.Namespace,
			Labels: map[string]string{labelManagedBy: managedBy, labelSession: r.Session},
		},
		Type: secretType,
		Data: map[string][]byte{journalKey: journalJSON, agentKey: agentJSON},
	}
	secret, err = c.Client.CoreV1().Secrets(c.Namespace).Create(ctx, secret, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil, sessionExists(ctx, c, name, r.Target)
	}
	if err != nil {
		return nil, fmt.Errorf("writing the journal (secret %s/%s): %w", c.Namespace, name, err)
	}
	return &journal{cluster: c, secret: secret, record: r}, nil
}

func sessionExists(ctx context.Context, c *Cluster, name, target string) error {
	hint := fmt.Sprintf("end it there, or run: kubedelve restore -n %s %s", c.Namespace, target)
	other, err := readJournal(ctx, c, name)
	if err != nil {
		return fmt.Errorf("%s: %w; %s", target, ErrSession, hint)
	}
	return fmt.Errorf("%s: %w, begun by %s at %s; %s", target, ErrSession,
		other.record.Owner, other.record.Created.Local().Format(time.DateTime), hint)
}

func readJournal(ctx context.Context, c *Cluster, name string) (*journal, error) {
	secret, err := c.Client.CoreV1().Secrets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the journal (secret %s/%s): %w", c.Namespace, name, err)
	}
	return decodeJournal(c, secret)
}

func decodeJournal(c *Cluster, secret *corev1.Secret) (*journal, error) {
	in := *c
	in.Namespace = secret.Namespace
	j := &journal{cluster: &in, secret: secret}
	if err := json.Unmarshal(secret.Data[journalKey], &j.record); err != nil {
		return nil, fmt.Errorf("journal (secret %s/%s): %w", secret.Namespace, secret.Name, err)
	}
	if j.record.Version != journalVersion {
		return nil, fmt.Errorf("journal (secret %s/%s): it is of another version of kubedelve (format %d, not %d); use that one",
			secret.Namespace, secret.Name, j.record.Version, journalVersion)
	}
	if target, err := ParseTarget(j.record.Target); err == nil { // else undo tells
		in.beneath = target.beneathAPI()
	}
	return j, nil
}

// add writes a step down, before it is done.
func (j *journal) add(ctx context.Context, s step) error {
	return j.change(ctx, func(r *record) { r.Steps = append(r.Steps, s) })
}

// changeTries is how often a change of the journal is tried: its answer may get lost.
const changeTries = 3

// change writes the record anew. The change may be made several times. It fails with a
// [*LostError] if the journal is not the session's any more.
func (j *journal) change(ctx context.Context, change func(*record)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for try := 1; ; try++ {
		next := j.record
		next.Steps = slices.DeleteFunc(slices.Clone(next.Steps), func(s step) bool { return j.done[s.Pod] })
		change(&next)
		err := j.write(ctx, next)
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) || try == changeTries {
			return err
		}
		if err := j.reread(ctx); err != nil {
			return err
		}
	}
}

// steps are those so far.
func (j *journal) steps() []step {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.record.Steps)
}

// write replaces the record, unless somebody else has written since it was read.
func (j *journal) write(ctx context.Context, next record) error {
	data, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	secret := j.secret.DeepCopy() // with its resource version
	secret.Data[journalKey] = data
	secret, err = j.cluster.Client.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("writing the journal (secret %s/%s): %w", j.secret.Namespace, j.secret.Name, err)
	}
	j.secret, j.record = secret, next
	return nil
}

// forget takes a pod that does not exist any more out of the record, with the next
// change.
func (j *journal) forget(pod string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.done == nil {
		j.done = map[string]bool{}
	}
	j.done[pod] = true
}

// refresh reads the journal anew. It fails with a [*LostError] if it is not the
// session's any more.
func (j *journal) refresh(ctx context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.reread(ctx)
}

// reread is refresh; the caller holds mu.
func (j *journal) reread(ctx context.Context) error {
	now, err := readJournal(ctx, j.cluster, j.secret.Name)
	switch {
	case apierrors.IsNotFound(err):
		return &LostError{fmt.Sprintf("its journal (secret %s/%s) was deleted; did somebody run kubedelve restore?", j.secret.Namespace, j.secret.Name)}
	case err != nil:
		return err
	case now.secret.UID != j.secret.UID || now.record.Session != j.record.Session:
		return &LostError{fmt.Sprintf("%s has ended it and begun another one", now.record.Owner)}
	case now.record.Ending != "":
		return &LostError{fmt.Sprintf("%s has run kubedelve restore", now.record.Ending)}
	}
	j.secret, j.record = now.secret, now.record
	return nil
}

// end marks the journal, so that a session that still lives makes no more changes: its
// next one would not be in what is undone.
func (j *journal) end(ctx context.Context, by string) error {
	for try := 1; j.secret != nil; try++ {
		next := j.record
		next.Ending = by
		err := j.write(ctx, next)
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) || try == changeTries {
			return err
		}
		now, err := readJournal(ctx, j.cluster, j.secret.Name)
		switch {
		case apierrors.IsNotFound(err), err == nil && now.secret.UID != j.secret.UID:
			return nil // what it said is undone all the same
		case err != nil:
			return err
		}
		j.secret, j.record = now.secret, now.record
	}
	return nil
}

// remove is the last step of undo.
func (j *journal) remove(ctx context.Context) error {
	if j.secret == nil {
		return nil // lost before
	}
	uid := j.secret.UID
	err := j.cluster.Client.CoreV1().Secrets(j.secret.Namespace).Delete(ctx, j.secret.Name,
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("removing the journal (secret %s/%s): %w", j.secret.Namespace, j.secret.Name, err)
	}
	return nil
}
