package localenv

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// attributes are those of a service's process: its own group (a Ctrl-C in the terminal is ours to pass on), the
// account, and its end when we end. SIGQUIT is PostgreSQL's immediate shutdown, and ends the others as well.
func (a account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT}
	if a.name != "" {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} //nolint:gosec // ids from the user database
	}
	return attr
}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) ([]int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	var children []int
	for field := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		children = append(children, child)
	}
	return children, nil
}
