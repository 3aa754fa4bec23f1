package receipt_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coditect/usher/client/receipt"
)

// A program carries the root keys it was built with, and asks nobody.
func ExampleVerifier_Receipt() {
	pinned, _ := os.ReadFile(filepath.Join("testdata", "roots.pem"))
	text, _ := os.ReadFile(filepath.Join("testdata", "receipt.jws"))
	roots, err := receipt.ParseRoots(pinned)
	if err != nil {
		fmt.Println(err)
		return
	}
	v := &receipt.Verifier{Roots: roots, Product: "editor", HardwareID: "device-1", Now: at(noon)}
	r, err := v.Receipt(string(text))
	fmt.Println(r.Plan, r.Seat, err)

	v.HardwareID = "device-2"
	_, err = v.Receipt(string(text))
	fmt.Println(errors.Is(err, receipt.ErrWrongHardware), err)
	// Output:
	// team 3 <nil>
	// true the receipt is refused: it is for another device
}
