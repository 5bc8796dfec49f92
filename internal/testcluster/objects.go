package testcluster

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// eachObject calls visit for the items of a list of any kind.
func eachObject(list runtime.Object, visit func(metav1.Object)) error {
	return meta.EachListItem(list, func(o runtime.Object) error {
		object, err := meta.Accessor(o)
		if err != nil {
			return fmt.Errorf("an object without metadata: %w", err)
		}
		visit(object)
		return nil
	})
}
