package serve

import (
	"fmt"
	"reflect"
)

// Complete panics when a field of deps, a struct, is its zero value: a function that was opened without one of its
// dependencies must fail before it serves anything.
func Complete(deps any) {
	v := reflect.ValueOf(deps)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			panic(fmt.Sprintf("%s.%s is missing", v.Type(), v.Type().Field(i).Name))
		}
	}
}
