-- Lists confirmed sessions, for the comparison with PostgreSQL and for recovery.
-- KEYS  as lib.lua
-- ARGV  cursor ('0' first); count hint
-- Returns one of
--   ok       epoch, next cursor ('0': the end), then for each session: id, fence, seat, mark, holder
--   rebuild  incarnation
local m = guard()
if not m then return { 'rebuild', incarnation() } end
local page = redis.call('HSCAN', SESSIONS, ARGV[1], 'COUNT', ARGV[2])
local answer = { 'ok', m.ep, page[1] }
local n = 3
for i = 1, #page[2], 2 do
  local s = unpack_session(page[2][i + 1])
  if s.mark ~= RESERVED then
    answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4], answer[n + 5] = page[2][i], s.fence, s.seat, s.mark, s.holder
    n = n + 5
  end
end
return answer
