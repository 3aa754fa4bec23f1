// Package wholefile writes small files that others read at any time, and that must not be half written when the machine stops.
//
// The package must not know what is in them.
package wholefile

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// tries is how often the file is put in place: Windows refuses that while somebody else, such as a virus scanner, looks at the
// old one. Between them it waits soonest, and twice as long each time: 150 ms in all.
const (
	tries   = 5
	soonest = 10 * time.Millisecond
)

// Write puts a file in place in one step, for its owner alone: whoever reads it sees the old text or the new one, and after a
// failure of power there is one of them. With an error, the old one stays.
func Write(path, text string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if _, err := file.WriteString(text); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Sync(); err != nil { // before the name: a name may reach the disk before what it names
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := os.Rename(file.Name(), path)
		if err == nil || try == tries {
			return err
		}
		time.Sleep(soonest << (try - 1))
	}
}
