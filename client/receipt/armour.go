package receipt

import (
	"bytes"
	"encoding/pem"
	"fmt"
)

// licenseFileBlock is the type of a licence file's PEM block.
const licenseFileBlock = "USHER LICENSE FILE"

// EncodeLicenseFile is the file of a compact JWS: one PEM block.
func EncodeLicenseFile(compact string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: licenseFileBlock, Bytes: []byte(compact)})
}

// unarmour reads the compact JWS of a file that is one PEM block of the type. Line
// ends may be of any system, and empty lines surround it; otherwise a file has one text.
func unarmour(text []byte, blockType string) (string, error) {
	if len(text) > 2*maxSize {
		return "", fmt.Errorf("%w: it has %d bytes", ErrMalformed, len(text))
	}
	text = bytes.TrimSpace(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	block, _ := pem.Decode(text)
	if block == nil || block.Type != blockType {
		return "", fmt.Errorf("%w: it has no PEM block of type %s", ErrMalformed, blockType)
	}
	compact := string(block.Bytes)
	if !bytes.Equal(text, bytes.TrimSpace(pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: block.Bytes}))) {
		return "", fmt.Errorf("%w: there is more in it than its PEM block", ErrMalformed)
	}
	return compact, nil
}
