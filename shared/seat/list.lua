-- Lists confirmed sessions, for the comparison with PostgreSQL and for recovery.
-- KEYS  as lib.lua
-- ARGV  cursor ('0' first); count hint
-- Returns one of
--   ok       next cursor ('0': the end), then for each session: id, fence, seat, holder, mark, ms until it is reaped,
--            and how it is to end, when it is evicted: status, at, reason, by ('', 0, '', '' otherwise)
--   rebuild
local m = guard()
if not m then return { 'rebuild' } end
local now = now_ms(m.ck)
local page = redis.call('HSCAN', SESSIONS, ARGV[1], 'COUNT', ARGV[2])
local answer = { 'ok', page[1] }
local n = 2
for i = 1, #page[2], 2 do
  local s = unpack_session(page[2][i + 1])
  if s.mark ~= RESERVED then
    answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4], answer[n + 5] = page[2][i], s.fence, s.seat, s.holder, s.mark
    answer[n + 6] = math.max(0, tonumber(redis.call('ZSCORE', LEASES, page[2][i])) - now)
    local status, at, reason, by
    if s.mark == EVICTED then status, at, reason, by = how_ended(page[2][i]) end
    answer[n + 7], answer[n + 8], answer[n + 9], answer[n + 10] = status or '', at or '0', reason or '', by or ''
    n = n + 10
  end
end
return answer
