package seat

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/coditect/usher/shared/tenancy"
)

// Recovery says what Recover did.
type Recovery struct {
	// Licenses whose pools were read.
	Licenses int `json:"licenses"`
	// Restored rows: sessions that lived in a pool and had none.
	Restored int `json:"restored"`
	// Closed rows: sessions that had ended in the time that PostgreSQL lost.
	Closed int `json:"closed"`
	// Cold pools tell nothing; their licences are rebuilt from what rows there are.
	Cold int `json:"cold"`
	// Unknown licences have a pool and no row: they were created in the time that PostgreSQL lost.
	Unknown []uuid.UUID `json:"unknown"`
}

// Recover is the operator's step after PostgreSQL was restored to an earlier time, before any function runs again: it
// writes the rows of the lost time anew from the pools in Redis, which still know who sits, and bumps every epoch so that
// nothing decided before the restore can touch the restored world. Safe to repeat.
func (p *Pools) Recover(ctx context.Context) (Recovery, error) {
	licenses, err := p.pooledLicenses(ctx)
	if err != nil {
		return Recovery{}, err
	}
	var report Recovery
	for _, license := range licenses {
		if err := p.recoverLicense(ctx, license, &report); err != nil {
			return report, fmt.Errorf("recover license %s: %w", license, err)
		}
	}
	return report, nil
}

// pooledLicenses lists the licences that have a pool.
func (p *Pools) pooledLicenses(ctx context.Context) ([]uuid.UUID, error) {
	var mu sync.Mutex
	var licenses []uuid.UUID
	scan := func(ctx context.Context, c *redis.Client) error {
		for keys := c.Scan(ctx, 0, keyPrefix+"*"+metaSuffix, sweepPage).Iterator(); ; {
			if !keys.Next(ctx) {
				if err := keys.Err(); err != nil {
					return unavailable(err)
				}
				return nil
			}
			id, err := uuid.Parse(strings.TrimSuffix(strings.TrimPrefix(keys.Val(), keyPrefix), metaSuffix))
			if err != nil {
				continue // not a pool of ours
			}
			mu.Lock()
			licenses = append(licenses, id)
			mu.Unlock()
		}
	}
	switch c := p.rdb.(type) {
	case *redis.ClusterClient:
		return licenses, c.ForEachMaster(ctx, scan)
	case *redis.Client:
		return licenses, scan(ctx, c)
	default:
		return nil, fmt.Errorf("redis: unexpected client %T", c)
	}
}

func (p *Pools) recoverLicense(ctx context.Context, license uuid.UUID, report *Recovery) error {
	report.Licenses++
	var tenant *uuid.UUID
	err := p.db.Across(ctx, "recovery: whose a pool is", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.find_license_tenant($1::uuid)`, license.String()).Scan(&tenant)
	})
	if err != nil {
		return err
	}
	if tenant == nil {
		report.Unknown = append(report.Unknown, license)
		return nil
	}
	l := pool{tenant: found(*tenant), license: license}
	sessions, _, cold, err := p.list(ctx, l)
	if err != nil {
		return err
	}
	if cold {
		report.Cold++
		return p.rebuild(ctx, l, 0)
	}
	restored, closed := 0, 0
	err = p.db.As(ctx, l.tenant, func(tx tenancy.Tx) error {
		restored, closed = 0, 0
		if _, err := scanLimits(tx.QueryRow(ctx, `SELECT `+limitColumns+`
			  FROM app.licenses l JOIN app.tenants t ON t.id = l.tenant_id
			 WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = $1::uuid FOR UPDATE OF l`, license.String())); err != nil {
			return err
		}
		ids := make([]string, len(sessions))
		for i, s := range sessions {
			ids[i] = s.session.String()
		}
		// Rows that no pool knows ended in the lost time; they must go first, because their seats may have new holders.
		rows, err := tx.Query(ctx, `SELECT id FROM app.open_sessions
			 WHERE tenant_id = (SELECT app.tenant()) AND license_id = $1::uuid AND id <> ALL ($2::text[]::uuid[])`, license.String(), ids)
		if err != nil {
			return err
		}
		lost, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		var ended []gone
		for _, id := range lost {
			ended = append(ended, gone{id, forgotten})
		}
		var verdict string
		if err := tx.Batch(ctx, func(b *tenancy.Batch) { queueClose(b, l, 0, ended, &verdict) }); err != nil {
			return err
		}
		closed = len(lost)
		for _, s := range sessions {
			hardware, _ := strings.CutPrefix(s.holder, "device:")
			if hardware == s.holder {
				hardware = "" // held by a user or an instance: the pool does not know the device
			}
			tag, err := tx.Exec(ctx, `INSERT INTO app.open_sessions
			       (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
			SELECT app.tenant(), $1::uuid, $2::uuid, $3, $4, $5, $6::text, $7::text
			 WHERE NOT EXISTS (SELECT FROM app.ended_sessions WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid)
			    ON CONFLICT (tenant_id, id) DO NOTHING`,
				s.session.String(), license.String(), s.seat, s.fence.Epoch, s.fence.Counter, s.holder, hardware)
			if err != nil {
				return err
			}
			restored += int(tag.RowsAffected())
		}
		_, err = tx.Exec(ctx, `UPDATE app.licenses
			   SET seat_epoch = greatest(seat_epoch + 1, extract(epoch FROM now())::bigint)
			 WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid`, license.String())
		return err
	})
	if errors.Is(err, ErrUnknownLicense) {
		report.Unknown = append(report.Unknown, license)
		return nil
	}
	if err != nil {
		return err
	}
	report.Restored += restored
	report.Closed += closed
	return p.rebuild(ctx, l, 0)
}
