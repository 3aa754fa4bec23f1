package license

import (
	"strconv"

	"github.com/coditect/usher/shared/fault"
)

// What one seat is for, as a licence's seat_per says.
const (
	PerDevice   = "device"
	PerUser     = "user"
	PerInstance = "instance"
)

// HolderKey tells the holders of a licence apart: by device, by user, or by an instance of the application on a device. A
// user or instance that the licence needs and the request lacks is a fault.Invalid.
func (l *License) HolderKey(hardware, user, instance string) (string, error) {
	switch l.SeatPer {
	case PerUser:
		if user == "" {
			return "", missing("user", "user", "This licence counts users: say who is asking.")
		}
		return "user:" + user, nil
	case PerInstance:
		if instance == "" {
			return "", missing("instance_id", "instance", "This licence counts running instances: give each its own id.")
		}
		// The length keeps "a" on "b@c" apart from "a@b" on "c".
		return "instance:" + strconv.Itoa(len(instance)) + ":" + instance + "@" + hardware, nil
	default:
		return "device:" + hardware, nil
	}
}

func missing(field, counted, detail string) error {
	return fault.Invalid("The licence has a seat for each "+counted+", and the request does not name one.",
		fault.Field{Field: field, Code: "required", Detail: detail})
}
