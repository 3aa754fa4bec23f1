package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/client/receipt"
)

func (a *app) audit() *cobra.Command {
	cmd := group(&cobra.Command{Use: "audit", Short: "See that nobody has rewritten the audit log"})
	cmd.AddCommand(a.verifyAudit())
	return cmd
}

func (a *app) verifyAudit() *cobra.Command {
	v := auditVerification{app: a}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify audit logs, and compare them with their checkpoints",
		Long: `Reads the entries of an audit log and the checkpoints that stand outside the database, and computes every hash on this machine. Of the
checkpoints it believes those alone that a root of --roots signed: the file that you have kept, not what the service hands out. So
neither the service nor whoever owns its database can have it say that a rewritten log is whole.

It verifies the log of --tenant or, without, the operator's own; with --all that of every tenant, those too that the database
has lost. It needs an API key of the operator with the scopes audit:read, incidents:read and, for --all, tenants:read. A tenant's own key verifies its
own log with --chain-only, without checkpoints.

It ends with 0 when everything is whole, and with 1 when something is not, and names it.`,
		Example: `  usher audit verify --roots roots.pem --all
  usher audit verify --roots roots.pem --tenant 0198c5d2-7c1e-7000-8000-000000000001`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return v.do(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&v.rootsFile, "roots", "", "a file with the public keys of all roots there were, in PEM")
	flags.StringVar(&v.tenant, "tenant", "", "the tenant's id, when an operator asks (USHER_TENANT_ID)")
	flags.BoolVar(&v.everybody, "all", false, "verify the logs of all tenants")
	flags.BoolVar(&v.chainOnly, "chain-only", false, "compare with no checkpoints: whoever hashes a log anew to its end is not found out")
	return cmd
}

// auditVerification is one usher audit verify.
type auditVerification struct {
	*app
	rootsFile, tenant    string
	everybody, chainOnly bool

	service *api
	roots   *receipt.Verifier
}

// auditOf is what was found of a tenant's log.
type auditOf struct {
	Tenant      string          `json:"tenant_id"`
	Whole       bool            `json:"whole"`
	Entries     int64           `json:"entries"`
	Checkpoints int             `json:"checkpoints"`
	Head        auditchain.Link `json:"head"`
	Problems    []string        `json:"problems"`
}

func (v *auditVerification) do(ctx context.Context) (err error) {
	switch {
	case v.rootsFile == "" && !v.chainOnly:
		return wrong("whom to trust? Give --roots, or --chain-only to compare with no checkpoints")
	case v.everybody && v.tenant != "":
		return wrong("--all is of every tenant, and --tenant of one")
	}
	if v.rootsFile != "" {
		text, err := os.ReadFile(v.rootsFile)
		if err != nil {
			return &failure{exitUsage, "unreadable", err.Error()}
		}
		keys, err := receipt.ParseRoots(text)
		if err != nil {
			return wrong("--roots: %v", err)
		}
		v.roots = &receipt.Verifier{Roots: keys}
	}
	if v.service, err = v.administration(); err != nil {
		return err
	}
	tenants := []string{v.setting(v.tenant, "USHER_TENANT_ID")}
	var lost []string
	if v.everybody {
		if tenants, lost, err = v.all(ctx); err != nil {
			return err
		}
	}
	var found []auditOf
	for _, tenant := range tenants {
		of, err := v.one(ctx, tenant)
		if err != nil {
			return err
		}
		found = append(found, of)
	}
	for _, tenant := range lost {
		found = append(found, auditOf{Tenant: tenant, Problems: []string{"the journal has checkpoints of this tenant, and the database has no such tenant any more"}})
	}
	return v.tellAudits(found)
}

// tellAudits shows what was found, and fails when something is not whole.
func (v *auditVerification) tellAudits(found []auditOf) error {
	broken := 0
	for i := range found {
		of := &found[i]
		of.Whole = len(of.Problems) == 0
		if !of.Whole {
			broken++
		}
		if v.json {
			writeJSON(v.out, of)
			continue
		}
		word := v.paint(green, "whole")
		if !of.Whole {
			word = v.paint(red, "not whole")
		}
		compared := fmt.Sprintf("%d checkpoints", of.Checkpoints)
		if v.chainOnly {
			compared = "compared with no checkpoints"
		}
		v.say("%s: %s, %d entries, %s, head %d %s", of.Tenant, word, of.Entries, compared, of.Head.Seq, of.Head.Hash)
		for _, p := range of.Problems {
			v.say("%s: %s", of.Tenant, printable(p))
		}
	}
	if broken > 0 {
		return &failure{exit: exitNo}
	}
	return nil
}

// all are the tenants of the service, the operator's own log ("") first, and those that only the journal knows.
func (v *auditVerification) all(ctx context.Context) (there, lost []string, err error) {
	own, _, err := v.entries(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	listed, err := v.service.read(ctx, "/v1/tenants", url.Values{}, 0)
	if err != nil {
		return nil, nil, err
	}
	there = []string{""}
	known := map[string]bool{own.Tenant: true}
	for _, item := range listed.Items {
		var tenant struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(item, &tenant); err != nil {
			return nil, nil, v.service.stranger(http.StatusOK)
		}
		there = append(there, tenant.ID)
		known[tenant.ID] = true
	}
	if v.chainOnly {
		return there, nil, nil
	}
	checkpointed, err := v.service.read(ctx, "/v1/checkpoints/tenants", url.Values{}, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, item := range checkpointed.Items {
		var tenant struct {
			ID string `json:"tenant_id"`
		}
		if err := json.Unmarshal(item, &tenant); err != nil {
			return nil, nil, v.service.stranger(http.StatusOK)
		}
		if !known[tenant.ID] {
			lost = append(lost, tenant.ID)
		}
	}
	return there, lost, nil
}

// one verifies the log of a tenant; of the caller's own with "".
func (v *auditVerification) one(ctx context.Context, tenant string) (auditOf, error) {
	var of auditOf
	var points []auditchain.Checkpoint
	var err error
	// The checkpoints first: each was the head of a chain that is not shorter when it is read afterwards.
	if !v.chainOnly {
		if points, of.Problems, err = v.checkpoints(ctx, tenant); err != nil {
			return of, err
		}
	}
	chain, entries, err := v.entries(ctx, tenant)
	if err != nil {
		return of, err
	}
	if tenant != "" && chain.Tenant != tenant {
		return of, v.service.stranger(http.StatusOK)
	}
	for _, p := range points {
		if p.Tenant != chain.Tenant {
			return of, v.service.stranger(http.StatusOK)
		}
	}
	comparison, all := auditchain.Compare(chain, points, func(yield func(auditchain.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	})
	result, err := auditchain.Verify(chain, all)
	if err != nil {
		return of, err
	}
	of.Tenant, of.Entries, of.Checkpoints, of.Head = chain.Tenant, result.Entries, comparison.Compared, chain.Head
	for _, p := range result.Problems {
		of.Problems = append(of.Problems, p.String())
	}
	if !v.chainOnly {
		of.Problems = append(of.Problems, comparison.Problems(time.Now())...)
	}
	return of, nil
}

// ofTenant asks for a tenant's; for the caller's own with "".
func ofTenant(tenant string) url.Values {
	query := url.Values{}
	if tenant != "" {
		query.Set("tenant_id", tenant)
	}
	return query
}

// entries reads a log from its newest entry to its oldest, and answers it the other way round. What is appended meanwhile comes
// with no later page.
func (v *auditVerification) entries(ctx context.Context, tenant string) (chain auditchain.Chain, all []auditchain.Entry, err error) {
	first := true
	for answer, err := range v.service.pages(ctx, "/v1/audit", ofTenant(tenant)) {
		if err != nil {
			return chain, nil, err
		}
		var page struct {
			Items []auditchain.Entry `json:"items"`
			Chain auditchain.Chain   `json:"chain"`
		}
		if err := json.Unmarshal(answer, &page); err != nil {
			return chain, nil, v.service.stranger(http.StatusOK)
		}
		if first {
			chain, first = page.Chain, false
		}
		all = append(all, page.Items...)
	}
	slices.SortStableFunc(all, func(a, b auditchain.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return chain, all, nil
}

// checkpoints are those of a tenant that can be believed. One that is missing, or that no root signed, is a problem.
func (v *auditVerification) checkpoints(ctx context.Context, tenant string) (all []auditchain.Checkpoint, problems []string, err error) {
	last := int64(0)
	for answer, err := range v.service.pages(ctx, "/v1/checkpoints", ofTenant(tenant)) {
		if err != nil {
			return nil, nil, err
		}
		var page struct {
			Items []auditchain.Checkpoint `json:"items"`
		}
		if err := json.Unmarshal(answer, &page); err != nil {
			return nil, nil, v.service.stranger(http.StatusOK)
		}
		for _, p := range page.Items {
			before := last
			last = p.Number
			signed, err := v.roots.Checkpoint(p.Signed)
			believed := err == nil && signed.Tenant == p.Tenant && signed.Number == p.Number && signed.Seq == p.Seq && signed.Hash == p.Hash.String() && signed.At.Equal(p.At)
			if p.Number != before+1 && !(believed && p.FollowsExpired(time.Now())) {
				problems = append(problems, fmt.Sprintf("checkpoint %d is missing from the journal", before+1))
			}
			if !believed {
				problems = append(problems, fmt.Sprintf("checkpoint %d was not signed by a root that is known", p.Number))
				continue
			}
			p.Signed = ""
			all = append(all, p)
		}
	}
	return all, problems, nil
}

// pages asks for a list page by page, to its end.
func (s *api) pages(ctx context.Context, path string, query url.Values) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		query.Set("limit", fmt.Sprint(largestPage))
		for {
			answer, err := s.call(ctx, http.MethodGet, path, query, nil)
			if err != nil {
				yield(nil, err)
				return
			}
			var next page
			if err := json.Unmarshal(answer, &next); err != nil {
				yield(nil, s.stranger(http.StatusOK))
				return
			}
			if !yield(answer, nil) || next.NextCursor == nil {
				return
			}
			query.Set("cursor", *next.NextCursor)
		}
	}
}
