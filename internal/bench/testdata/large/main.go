// Large is a component of the size of a Kubernetes controller: client-go with all
// its API types is linked in, and 500 goroutines wait.
package main

import (
	"context"
	"fmt"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubedelve/kubedelve/internal/bench/testdata/work"
)

func main() {
	if len(os.Args) > 2 { // never so; it keeps the linker from leaving all of it out
		config, _ := clientcmd.BuildConfigFromFlags("", os.Args[1])
		pods, err := kubernetes.NewForConfigOrDie(config).CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
		fmt.Println(pods, err)
	}
	if len(os.Args) > 1 { // in the place of which it will be debugged
		work.Rest()
	}
	work.Idle(500)
	work.Deep(30, work.NewOrder())
}
