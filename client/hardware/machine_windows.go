package hardware

import (
	"context"
	"fmt"
	"syscall"
	"unsafe"
)

// read64 reads the registry of the system, whatever the program was built for.
const read64 = syscall.KEY_READ | 0x100

// machineID is what Windows made when it was installed.
func machineID(context.Context, string) (string, error) {
	path, err := syscall.UTF16PtrFromString(`SOFTWARE\Microsoft\Cryptography`)
	if err != nil {
		return "", err
	}
	name, err := syscall.UTF16PtrFromString("MachineGuid")
	if err != nil {
		return "", err
	}
	var key syscall.Handle
	if err := syscall.RegOpenKeyEx(syscall.HKEY_LOCAL_MACHINE, path, 0, read64, &key); absent(err) {
		return "", ErrNone
	} else if err != nil {
		return "", fmt.Errorf("ask the registry: %w", err)
	}
	defer func() { _ = syscall.RegCloseKey(key) }()
	var text [128]uint16
	size, kind := uint32(len(text)*2), uint32(0)
	err = syscall.RegQueryValueEx(key, name, nil, &kind, (*byte)(unsafe.Pointer(&text[0])), &size)
	if err != nil && !absent(err) {
		return "", fmt.Errorf("ask the registry: %w", err)
	}
	id := syscall.UTF16ToString(text[:])
	if err != nil || kind != syscall.REG_SZ || id == "" {
		return "", ErrNone
	}
	return id, nil
}
