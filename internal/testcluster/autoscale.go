package testcluster

import (
	"context"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// metricsAPI is the path of the cluster's external metrics API.
const metricsAPI = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io"

// ServeMetrics makes the program of an image the cluster's external metrics API, at its
// port 8443. It is taken away by [Cluster.StopMetrics], before the namespace: without an
// API that is announced no namespace comes to its end.
func (n *Namespace) ServeMetrics(ctx context.Context, image string) error {
	const name = "metrics"
	if err := n.CreatePod(ctx, name, image); err != nil {
		return err
	}
	if _, err := n.Client.CoreV1().Pods(n.Name).Patch(ctx, name, "application/merge-patch+json",
		[]byte(`{"metadata":{"labels":{"app":"metrics"}}}`), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("the metrics API's pod: %w", err)
	}
	if _, err := n.Client.CoreV1().Services(n.Name).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}},
		},
	}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("the metrics API's service: %w", err)
	}
	body := fmt.Sprintf(`{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1beta1.external.metrics.k8s.io"},
		"spec":{"group":"external.metrics.k8s.io","version":"v1beta1","groupPriorityMinimum":100,"versionPriority":100,
		"insecureSkipTLSVerify":true,"service":{"namespace":%q,"name":%q}}}`, n.Name, name)
	rest := n.Client.Discovery().RESTClient()
	if err := rest.Post().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").Body([]byte(body)).Do(ctx).Error(); err != nil {
		return fmt.Errorf("announcing the metrics API: %w", err)
	}
	return until(ctx, "the metrics API to answer", func() (bool, string, error) {
		answer, err := rest.Get().AbsPath("/apis/external.metrics.k8s.io/v1beta1/namespaces/" + n.Name + "/any").DoRaw(ctx)
		return err == nil, fmt.Sprintf("%s %v", answer, err), nil
	})
}

// StopMetrics takes the external metrics API away.
func (c *Cluster) StopMetrics(ctx context.Context) error {
	err := c.Client.Discovery().RESTClient().Delete().AbsPath(metricsAPI).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Autoscale makes a HorizontalPodAutoscaler, named for the Deployment, that wants as many
// pods, up to 3, as an external metric is.
func (n *Namespace) Autoscale(ctx context.Context, deployment string) error {
	_, err := n.Client.AutoscalingV2().HorizontalPodAutoscalers(n.Name).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: deployment},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: deployment},
			MinReplicas:    ptr.To[int32](1), MaxReplicas: 3,
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ExternalMetricSourceType,
				External: &autoscalingv2.ExternalMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: "load"},
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(1, resource.DecimalSI)},
				},
			}},
		},
	}, metav1.CreateOptions{})
	return err
}

// EndAutoscaling deletes what Autoscale has made, and gives the Deployment so many pods.
func (n *Namespace) EndAutoscaling(ctx context.Context, deployment string, replicas int32) error {
	if err := n.Client.AutoscalingV2().HorizontalPodAutoscalers(n.Name).Delete(ctx, deployment, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if _, err := n.Client.AppsV1().Deployments(n.Name).Patch(ctx, deployment, "application/merge-patch+json",
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas), metav1.PatchOptions{}); err != nil {
		return err
	}
	return n.AwaitReplicas(ctx, deployment, replicas)
}

// AwaitReplicas waits until a Deployment has so many pods that are ready.
func (n *Namespace) AwaitReplicas(ctx context.Context, deployment string, want int32) error {
	return until(ctx, fmt.Sprintf("deployment %s to have %d pods", deployment, want), func() (bool, string, error) {
		d, err := n.Client.AppsV1().Deployments(n.Name).Get(ctx, deployment, metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		return d.Status.ReadyReplicas == want && d.Status.Replicas == want, fmt.Sprintf("%d ready of %d", d.Status.ReadyReplicas, d.Status.Replicas), nil
	})
}

// Leader is the holder of a component's Lease, and when that was renewed.
func (c *Cluster) Leader(ctx context.Context, component string) (identity string, renewed time.Time, err error) {
	lease, err := c.Client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, component, metav1.GetOptions{})
	if err != nil {
		return "", renewed, fmt.Errorf("reading the Lease of %s: %w", component, err)
	}
	return ptr.Deref(lease.Spec.HolderIdentity, ""), ptr.Deref(lease.Spec.RenewTime, metav1.MicroTime{}).Time, nil
}

// AwaitLeader waits until a component has a leader other than one, and returns it.
func (c *Cluster) AwaitLeader(ctx context.Context, component, other string) (identity string, err error) {
	err = until(ctx, "a leader of "+component+" other than "+other, func() (bool, string, error) {
		identity, _, err = c.Leader(ctx, component)
		return identity != "" && identity != other, identity, err
	})
	return identity, err
}

// StaticPod is the UID that the kubelet has given to a static pod, and whether it runs and
// all its containers are ready.
func (c *Cluster) StaticPod(ctx context.Context, component string) (uid string, ready bool, err error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil || len(nodes.Items) == 0 {
		return "", false, fmt.Errorf("reading the nodes: %w", err)
	}
	pod, err := c.Client.CoreV1().Pods(metav1.NamespaceSystem).Get(ctx, component+"-"+nodes.Items[0].Name, metav1.GetOptions{})
	if err != nil {
		return "", false, fmt.Errorf("reading the static pod of %s: %w", component, err)
	}
	return pod.Annotations["kubernetes.io/config.hash"], pod.Status.Phase == corev1.PodRunning && Ready(pod), nil
}

// AwaitStaticPod waits until a static pod is the one of the UID, if that is not empty, and ready.
func (c *Cluster) AwaitStaticPod(ctx context.Context, component, uid string) error {
	return until(ctx, "static pod "+component+" to be "+uid+" and ready", func() (bool, string, error) {
		now, ready, err := c.StaticPod(ctx, component)
		return err == nil && (now == uid || uid == "") && ready, fmt.Sprint(now, ready, err), nil
	})
}
