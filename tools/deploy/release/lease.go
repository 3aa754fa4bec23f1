package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/run/apiv2/runpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A project is released to by one at a time. Who that is stands in two annotations of the migrate job, which each release changes anyway: a
// write that names an older version of the job than there is is refused by Cloud Run, so of two at once one has the lease.
const (
	holderNote = "usher-release"       // who releases
	untilNote  = "usher-release-until" // when the lease ends if it is not renewed, RFC 3339

	// leaseLife is how long a release that was killed keeps others out. Steps of a build that do not renew it are shorter.
	leaseLife = 10 * time.Minute
	// claimTimeout bounds one reading and writing of the job, with its repetitions.
	claimTimeout = time.Minute
	conflictRest = 100 * time.Millisecond // between repetitions, when others write the job at the same time
)

// claim is what a verb does with the lease when it begins.
type claim uint8

const (
	takeLease  claim = iota // which is nobody's, has ended, or is ours already
	keepLease               // which is ours, since migrate
	seizeLease              // whosever it is
)

// lostError says that the lease is not ours: others may be releasing.
type lostError struct{ why string }

func (e *lostError) Error() string { return e.why }

func lost(err error) bool {
	var l *lostError
	return errors.As(err, &l)
}

// editJob changes the migrate job as it is, again when somebody else changed it meanwhile.
func (c *cloud) editJob(ctx context.Context, change func(*runpb.Job) error) error {
	c.editing.Lock()
	defer c.editing.Unlock()
	for {
		job, err := c.jobs.GetJob(ctx, &runpb.GetJobRequest{Name: c.jobName()})
		if err != nil {
			return fmt.Errorf("read the job %s: %w", migrateJob, err)
		}
		if err := change(job); err != nil {
			return err
		}
		operation, err := c.jobs.UpdateJob(ctx, &runpb.UpdateJobRequest{Job: job})
		if err == nil {
			_, err = operation.Wait(ctx)
		}
		if err == nil {
			return nil
		}
		if status.Code(err) != codes.Aborted || ctx.Err() != nil {
			return fmt.Errorf("change the job %s: %w", migrateJob, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(conflictRest):
		}
	}
}

// claims takes, keeps or seizes the lease for leaseLife from now on, or answers whose it is.
func (c *cloud) claims(ctx context.Context, how claim) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	return c.editJob(ctx, func(job *runpb.Job) error {
		holder := job.GetAnnotations()[holderNote]
		until, err := time.Parse(time.RFC3339, job.GetAnnotations()[untilNote])
		free := holder == "" || err != nil || c.now().After(until)
		switch {
		case how == seizeLease:
			c.seized = !free && holder != c.release
		case holder == c.release, how == takeLease && free:
		case how == takeLease:
			return &lostError{fmt.Sprintf("%s releases to this project, until %s if it does not go on: nothing was changed. When it has ended, begin this release anew", holder, until.Format(time.RFC3339))}
		case holder == "":
			return &lostError{fmt.Sprintf("%s does not release to this project any more: others have, or it has failed", c.release)}
		default:
			return &lostError{fmt.Sprintf("%s releases to this project now, instead of %s", holder, c.release)}
		}
		if job.GetAnnotations() == nil {
			job.Annotations = map[string]string{}
		}
		job.Annotations[holderNote], job.Annotations[untilNote] = c.release, c.now().Add(c.leaseLife).UTC().Format(time.RFC3339Nano)
		return nil
	})
}

// frees gives the lease back, if it is ours.
func (c *cloud) frees(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	err := c.editJob(ctx, func(job *runpb.Job) error {
		if job.GetAnnotations()[holderNote] != c.release {
			return &lostError{"it is somebody else's"}
		}
		delete(job.Annotations, holderNote)
		delete(job.Annotations, untilNote)
		return nil
	})
	if err != nil && !lost(err) {
		c.say("the lease was not given back, and keeps others out for %v: %v", c.leaseLife, err)
	}
}

// under works with the lease, which it renews meanwhile. The work's context ends when the lease is lost; its cause says to whom. Work
// that fails gives the lease back, and so does the last of a release.
func (c *cloud) under(ctx context.Context, how claim, last bool, work func(context.Context) error) error {
	if err := c.claims(ctx, how); err != nil {
		return err
	}
	c.leased = true
	working, stop := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		c.renews(working, stop)
	}()
	err := work(working)
	if cause := context.Cause(working); lost(cause) && !lost(err) {
		err = errors.Join(cause, err)
	}
	stop(nil)
	<-renewed
	if !lost(err) && (err != nil || last) {
		c.frees(context.WithoutCancel(ctx)) // whoever stopped the build must not stop this
	}
	return err
}

// renews the lease until the work ends, and stops the work when the lease is lost, or could not be renewed in time.
func (c *cloud) renews(working context.Context, stop context.CancelCauseFunc) {
	ends := c.now().Add(c.leaseLife)
	for {
		select {
		case <-working.Done():
			return
		case <-time.After(c.leaseLife / 10):
		}
		renewed := c.now()
		err := c.claims(working, keepLease)
		switch {
		case err == nil:
			ends = renewed.Add(c.leaseLife)
		case lost(err):
			stop(err)
			return
		// What is on its way to Cloud Run when the lease ends is over by then.
		case c.now().After(ends.Add(-c.leaseLife / 5)):
			stop(&lostError{fmt.Sprintf("the lease of %s could not be renewed: %v", c.release, err)})
			return
		}
	}
}
