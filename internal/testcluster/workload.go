package testcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Namespace is a namespace of a test's own.
type Namespace struct {
	*Cluster
	Name string
}

// poll is how often state is looked at.
const poll = 50 * time.Millisecond

// until asks done every now and then until it says true or fails. The error of one
// that did not come true in time names what was awaited and how far it was.
func until(ctx context.Context, what string, done func() (ok bool, state string, err error)) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		ok, state, err := done()
		if ok {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; it is: %s", what, context.Cause(ctx), state)
		case <-tick.C:
		}
	}
}

// NewNamespace makes a namespace that enforces PodSecurity "restricted". A name
// that ends in "-" is completed by the API server.
func (c *Cluster) NewNamespace(ctx context.Context, name string) (*Namespace, error) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	if strings.HasSuffix(name, "-") {
		namespace.Name, namespace.GenerateName = "", name
	}
	created, err := c.Client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("making a namespace: %w", err)
	}
	n := &Namespace{c, created.Name}
	// What controllers put into every namespace comes first, so that it does not
	// look like a change later.
	return n, until(ctx, "the first objects of namespace "+n.Name, func() (bool, string, error) {
		_, err := c.Client.CoreV1().ServiceAccounts(n.Name).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			_, err = c.Client.CoreV1().ConfigMaps(n.Name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			return false, err.Error(), nil
		}
		return err == nil, "", err
	})
}

// Delete begins to delete the namespace; with wait it also waits until it is gone.
func (n *Namespace) Delete(ctx context.Context, wait bool) error {
	// Pods that nobody watches any more need no time to end.
	pods := n.Client.CoreV1().Pods(n.Name)
	zero := int64(0)
	err := errors.Join(
		n.Client.CoreV1().Namespaces().Delete(ctx, n.Name, metav1.DeleteOptions{}),
		pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{}))
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || !wait {
		return err
	}
	return until(ctx, "the end of namespace "+n.Name, func() (bool, string, error) {
		ns, err := n.Client.CoreV1().Namespaces().Get(ctx, n.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		return false, fmt.Sprint(ns.Status), err
	})
}

// Objects are a sample's, as they are about to be created.
type Objects struct {
	Deployments []*appsv1.Deployment
	Services    []*corev1.Service
}

// Deployment is the one of the name.
func (o *Objects) Deployment(name string) *appsv1.Deployment {
	for _, d := range o.Deployments {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// Only keeps the objects with these names.
func (o *Objects) Only(names ...string) *Objects {
	kept := &Objects{}
	for _, name := range names {
		for _, d := range o.Deployments {
			if d.Name == name {
				kept.Deployments = append(kept.Deployments, d)
			}
		}
		for _, s := range o.Services {
			if s.Name == name {
				kept.Services = append(kept.Services, s)
			}
		}
	}
	return kept
}

// Shop reads the sample of three tiers, with the images that this cluster has.
func (c *Cluster) Shop() (*Objects, error) {
	path := filepath.Join(c.Programs.Shop(), "shop.yaml")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the sample: %w", err)
	}
	defer func() { _ = f.Close() }()
	objects := &Objects{}
	decoder := yaml.NewYAMLOrJSONDecoder(f, 4096)
	for {
		var raw struct {
			metav1.TypeMeta
			Metadata metav1.ObjectMeta `json:"metadata"`
			Spec     json.RawMessage   `json:"spec"`
		}
		if err := decoder.Decode(&raw); err != nil {
			if len(objects.Deployments) > 0 && errors.Is(err, io.EOF) {
				return objects, nil
			}
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		switch raw.Kind {
		case "Deployment":
			d := &appsv1.Deployment{ObjectMeta: raw.Metadata}
			if err := json.Unmarshal(raw.Spec, &d.Spec); err != nil {
				return nil, fmt.Errorf("%s: deployment %s: %w", path, raw.Metadata.Name, err)
			}
			d.Spec.Template.Spec.Containers[0].Image = c.Refs[d.Name]
			objects.Deployments = append(objects.Deployments, d)
		case "Service":
			s := &corev1.Service{ObjectMeta: raw.Metadata}
			if err := json.Unmarshal(raw.Spec, &s.Spec); err != nil {
				return nil, fmt.Errorf("%s: service %s: %w", path, raw.Metadata.Name, err)
			}
			objects.Services = append(objects.Services, s)
		default:
			return nil, fmt.Errorf("%s: kind %q", path, raw.Kind)
		}
	}
}

// Create creates the objects and waits until the Deployments are as they should be.
func (n *Namespace) Create(ctx context.Context, o *Objects) error {
	for _, s := range o.Services {
		if _, err := n.Client.CoreV1().Services(n.Name).Create(ctx, s, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating service %s: %w", s.Name, err)
		}
	}
	for _, d := range o.Deployments {
		if _, err := n.Client.AppsV1().Deployments(n.Name).Create(ctx, d, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating deployment %s: %w", d.Name, err)
		}
	}
	for _, d := range o.Deployments {
		if err := n.Settled(ctx, d.Name); err != nil {
			return err
		}
	}
	return nil
}

// Settled waits until a Deployment has exactly the pods that it wants, all ready
// and none of another making, and until its Service leads to them.
func (n *Namespace) Settled(ctx context.Context, name string) error {
	return until(ctx, fmt.Sprintf("deployment %s/%s to be as it should", n.Name, name), func() (bool, string, error) {
		d, err := n.Client.AppsV1().Deployments(n.Name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		pods, err := n.Pods(ctx, name)
		if err != nil {
			return false, "", err
		}
		want, ready, state := int(*d.Spec.Replicas), 0, ""
		for _, pod := range pods {
			if Ready(&pod) && pod.DeletionTimestamp == nil && metav1.GetControllerOf(&pod) != nil {
				ready++
			}
			state += fmt.Sprintf(" pod %s: %s", pod.Name, describe(&pod))
		}
		status := d.Status
		settled := status.ObservedGeneration == d.Generation && int(status.ReadyReplicas) == want &&
			int(status.AvailableReplicas) == want && int(status.Replicas) == want && len(pods) == want && ready == want
		if !settled {
			return false, fmt.Sprintf("%d of %d pods ready,%s", ready, want, state), nil
		}
		endpoints, err := n.Endpoints(ctx, name)
		if err != nil {
			return false, "", err
		}
		for _, pod := range pods {
			if endpoints != nil && !endpoints[pod.Status.PodIP] {
				return false, fmt.Sprintf("pod %s is not an endpoint: %v", pod.Name, endpoints), nil
			}
		}
		return true, "", nil
	})
}

// Pods are those with the label app of the Deployment, the debug pod among them.
func (n *Namespace) Pods(ctx context.Context, app string) ([]corev1.Pod, error) {
	list, err := n.Client.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return nil, fmt.Errorf("reading the pods of %s: %w", app, err)
	}
	return list.Items, nil
}

// Endpoints are the addresses of a Service and whether each is ready; nil means
// that there is no such Service.
func (n *Namespace) Endpoints(ctx context.Context, service string) (map[string]bool, error) {
	list, err := n.Client.DiscoveryV1().EndpointSlices(n.Name).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
	if err != nil {
		return nil, fmt.Errorf("reading the endpoints of %s: %w", service, err)
	}
	if len(list.Items) == 0 {
		return nil, nil //nolint:nilnil // an empty map is one without endpoints
	}
	ready := map[string]bool{}
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			ready[e.Addresses[0]] = e.Conditions.Ready != nil && *e.Conditions.Ready
		}
	}
	return ready, nil
}

// Ready tells whether a pod is.
func Ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func describe(pod *corev1.Pod) string {
	text := string(pod.Status.Phase)
	if pod.DeletionTimestamp != nil {
		text += ", being deleted"
	}
	for _, s := range pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil {
			text += ", " + w.Reason + " " + w.Message
		}
	}
	return text
}
