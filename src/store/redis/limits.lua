-- Decides on all limits of a request at once, keeps its reservations, and gives them back.
--
-- ARGV: the operation ("take", "renew", "give", "look"); the time in microseconds since 1970, or nothing for the clock of this server;
-- the id of the request; for how many milliseconds a reservation is kept; the epoch that the replica knows, or nothing for any (look: the
-- name of a new epoch, if Redis is empty); then for each item its kind and four more texts:
--   rate   take: microseconds until the cost is free again        give: microseconds used beyond the reservation, and those not used
--   look   as rate, but only read
--   place  take: the limit
--   spend  cost; limit (take only); when the budget is deleted, in milliseconds since 1970 (or nothing: never); the spend, as three words
--          for each data folder: its name, when its process read the ledger (0 if another replica tells it), and its total
-- KEYS: the key of the epoch, and one for each item:
--   rate, look  the moment in microseconds at which the whole rate is free again. KEY:turn is the moment at which the request that was
--               refused last may come again
--   place       sorted set of requests in progress, by the millisecond at which their places are free again
--   spend       hash: spent, and o:NAME for the part of the data folder NAME; held. KEY:requests is a sorted set of reservations
--               ("COST ID"), by the millisecond at which they end; their sum is held. Nano-units. Earlier versions used other names for
--               both: in a rolling upgrade the versions share the spend, and do not see each other's reservations
-- The epoch is a random name that is lost with all other data. In another epoch than the replica knows, Redis may lack data, and the
-- script decides nothing.
-- Returned by "take": the number of the exceeded item (0: none, -1: another epoch), microseconds to wait for it, and for each item the
-- microseconds until the whole rate is free again, or the number of places taken. By "look": the epoch.
--
-- Lua counts in doubles. They are exact up to 2^53: microseconds until the year 2255, and 9 million units of money. Beyond 9 million units
-- an amount is rounded to a nano-unit or a few.
local MINUTE = 60000000
-- Thirty years: no moment is set further ahead, so that microseconds stay exact.
local FAR = 1000000000000000
-- 400 days: a budget without an end is deleted after so many milliseconds without a request. The ledger knows its spend.
local LONG = 34560000000
-- A reservation of another request may be given back soon: wait for a second.
local SOON = 1000000

local op, now, id, ttl, epoch = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local ms = math.floor(now / 1000)

local function whole(number)
  return string.format('%.0f', number)
end

if op == 'look' then
  epoch = redis.call('GET', KEYS[1]) or epoch
  -- Each look writes: a server that accepts no writes is of no use.
  redis.call('SET', KEYS[1], epoch, 'PX', LONG)
  return epoch
end

if op == 'take' and epoch ~= '' and redis.call('GET', KEYS[1]) ~= epoch then
  return { -1, 0 }
end

-- Adds up the spend of all data folders. The total of each only grows, unless its process has read the ledger again: a row may cost less
-- in the end. So it does not matter how often a total is told, nor how late.
local function add_up(item)
  for origin, read_at, total in string.gmatch(item[4], '(%S+) (%d+) (%d+)') do
    local known = redis.call('HMGET', item.key, 'o:' .. origin, 'spent')
    local known_at, before = string.match(known[1] or '0 0', '(%d+) (%d+)')
    if tonumber(read_at) <= tonumber(known_at) then
      read_at, total = known_at, math.max(total, before)
    end
    local told = read_at .. ' ' .. whole(total)
    if told ~= known[1] then
      redis.call('HSET', item.key, 'o:' .. origin, told, 'spent', whole((known[2] or 0) - before + total))
    end
  end
end

-- Reads a budget, and drops reservations that ended: their replica is gone.
local function read(item)
  add_up(item)
  item.held, item.mine = item.key .. ':requests', item[1] .. ' ' .. id
  local known = redis.call('HMGET', item.key, 'spent', 'held')
  item.spent, item.reserved = tonumber(known[1] or 0), tonumber(known[2] or 0)
  for _, ended in ipairs(redis.call('ZRANGEBYSCORE', item.held, '-inf', whole(ms))) do
    item.reserved = item.reserved - string.match(ended, '%d+')
    redis.call('ZREM', item.held, ended)
  end
end

local function write(item)
  redis.call('HSET', item.key, 'held', whole(item.reserved))
  for _, key in ipairs({ item.key, item.held }) do
    if item[3] == '' then
      redis.call('PEXPIRE', key, LONG)
    else
      redis.call('PEXPIREAT', key, item[3])
    end
  end
end

local function reserve(item)
  item.reserved = item.reserved + redis.call('ZADD', item.held, whole(ms + ttl), item.mine) * item[1]
  write(item)
end

local function enter(item)
  redis.call('ZADD', item.key, whole(ms + ttl), id)
  redis.call('PEXPIRE', item.key, whole(ttl + 1000))
end

local function used(item)
  return math.max(tonumber(redis.call('GET', item.key) or 0) - now, 0)
end

local function use(item, used)
  if used > 0 then
    redis.call('SET', item.key, whole(now + used), 'PX', whole(math.ceil(used / 1000) + 1000))
  else
    redis.call('DEL', item.key)
  end
end

-- How long a refused request waits: until its own turn, behind the requests that were refused before it (as Rate::turn).
local function turn(item, needs)
  local key = item.key .. ':turn'
  local at, last = now + needs, tonumber(redis.call('GET', key) or 0)
  if last > now then
    at = math.max(at, math.min(last + item[1], now + MINUTE))
  end
  at = math.min(at, now + FAR)
  -- Kept for a minute longer than it counts: a turn that is over changes nothing, whichever clock `now` comes from.
  redis.call('SET', key, whole(at), 'PX', whole(math.ceil((at - now) / 1000) + MINUTE / 1000))
  return at - now
end

local items = {}
for nth = 2, #KEYS do
  local at = nth * 5 - 4
  items[nth - 1] = { key = KEYS[nth], kind = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4] }
end

if op ~= 'take' then
  for _, item in ipairs(items) do
    if item.kind == 'rate' then
      use(item, math.min(math.max(used(item) + item[1] - item[2], 0), FAR))
    elseif item.kind == 'place' and op == 'give' then
      redis.call('ZREM', item.key, id)
    elseif item.kind == 'place' then
      enter(item)
    else
      read(item)
      if op == 'renew' then
        reserve(item)
      else
        item.reserved = item.reserved - redis.call('ZREM', item.held, item.mine) * item[1]
        write(item)
      end
    end
  end
  return {}
end

local answer = { 0, 0 }
for nth, item in ipairs(items) do
  local fits, needs, state = true, 0, 0
  if item.kind == 'place' then
    redis.call('ZREMRANGEBYSCORE', item.key, '-inf', whole(ms))
    state = redis.call('ZCARD', item.key)
    fits = state < tonumber(item[1])
  elseif item.kind == 'spend' then
    read(item)
    local limit = tonumber(item[2])
    -- A request alone is admitted while anything is left, whatever it costs.
    fits = item.spent < limit and (item.reserved == 0 or item.spent + item.reserved + item[1] <= limit)
    needs = item.spent < limit and SOON or 0
  else
    state = used(item)
    if item.kind == 'rate' then
      -- A request that costs more than a minute's worth is admitted once nothing is used.
      needs = math.min(state, state + item[1] - MINUTE)
      fits = needs <= 0
    end
  end
  item.state, answer[nth + 2] = state, state
  if not fits and answer[1] == 0 then
    answer[1], answer[2] = nth, needs
  end
end
local exceeded = items[answer[1]]
if exceeded and exceeded.kind == 'rate' then
  answer[2] = turn(exceeded, answer[2])
end
for nth, item in ipairs(items) do
  if item.kind == 'spend' and exceeded then
    -- Reservations that ended were dropped.
    write(item)
  elseif item.kind == 'spend' then
    reserve(item)
  elseif item.kind == 'rate' and not exceeded then
    answer[nth + 2] = math.min(item.state + item[1], FAR)
    use(item, answer[nth + 2])
  elseif item.kind == 'place' and not exceeded then
    enter(item)
    answer[nth + 2] = item.state + 1
  end
end
return answer
