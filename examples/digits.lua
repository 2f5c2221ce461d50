-- Grid search with cross-validation: which k and which distance let a k-nearest-neighbours
-- classifier read the most handwritten digits?
--
--   tidepool run examples/digits.lua [--k 1,3,5] [--p 1,2] [--folds 5] [--workers N]
--                                   [--journal run.db]
--
-- With a journal it may be interrupted at any time: the same command goes on where it was. (Then
-- the times say little.)
--
-- The data are 1,797 digits of 8 x 8 pixels (0 to 16) and their labels: examples/data/digits.csv,
-- the test set of the UCI "Optical Recognition of Handwritten Digits" data. Folds are contiguous
-- blocks, the first n % folds one larger; ties in distance go to the lower training index, ties in
-- the vote to the smaller label. scikit-learn 1.2.1 gives the same counts.
--
-- test: --k 1,2,3,5,8,13,21 --p 2
-- prints:  p   k  correct  accuracy
-- prints:  2   1     1734   0.9649
-- prints:  2   2     1740   0.9683
-- prints:  2   3     1737   0.9666
-- prints:  2   5     1733   0.9644
-- prints:  2   8     1723   0.9588
-- prints:  2  13     1720   0.9572
-- prints:  2  21     1706   0.9494
-- prints: best: p = 2, k = 2 with 1740 of 1797
-- prints: 35 tasks in ... times as fast

local tidepool = require "tidepool"
local app = tidepool.App "digits"

local PIXELS = 64

--- The pixels of all digits in one list, row after row, and the labels.
local function load_digits(path)
  local pixels, labels = {}, {}
  for line in assert(io.lines(path)) do
    local row = {}
    for number in line:gmatch "%d+" do row[#row + 1] = tonumber(number) end
    for i = 1, PIXELS do pixels[#pixels + 1] = row[i] end
    labels[#labels + 1] = row[PIXELS + 1]
  end
  return pixels, labels
end

local here = arg and arg[0] and arg[0]:match "^(.*/)" or "examples/"
local pixels, labels = load_digits(here .. "data/digits.csv")

--- Distances to the power p: the order is the same.
local function distance(a, b, p)
  local sum = 0
  if p == 2 then
    for i = 1, PIXELS do
      local d = pixels[a + i] - pixels[b + i]
      sum = sum + d * d
    end
  elseif p == 1 then
    for i = 1, PIXELS do sum = sum + math.abs(pixels[a + i] - pixels[b + i]) end
  else
    for i = 1, PIXELS do sum = sum + math.abs(pixels[a + i] - pixels[b + i]) ^ p end
  end
  return sum
end

--- The label that most of the k training digits next to digit `test` have; first..last are left out
-- of the training.
local function classify(test, k, p, first, last)
  local best, label_of, n = {}, {}, 0 -- the nearest so far, nearest first
  for train = 1, #labels do
    if train < first or train > last then
      local d = distance((test - 1) * PIXELS, (train - 1) * PIXELS, p)
      if n < k or d < best[n] then
        local at = n < k and n + 1 or k
        while at > 1 and d < best[at - 1] do
          best[at], label_of[at] = best[at - 1], label_of[at - 1]
          at = at - 1
        end
        best[at], label_of[at] = d, labels[train]
        n = math.min(n + 1, k)
      end
    end
  end
  local votes, winner = {}, nil
  for i = 1, n do votes[label_of[i]] = (votes[label_of[i]] or 0) + 1 end
  for label = 0, 9 do
    if votes[label] and (not winner or votes[label] > votes[winner]) then winner = label end
  end
  return winner
end

-- One task: one setting on one fold. The digits are upvalues; a worker gets them once.
local evaluate = app:func {} (function(p, k, first, last)
  local correct = 0
  for test = first, last do
    if classify(test, k, p, first, last) == labels[test] then correct = correct + 1 end
  end
  return correct
end)

--- The bounds of each fold.
local function folds_of(n, count)
  local folds, first = {}, 1
  for i = 1, count do
    local size = math.floor(n / count) + (i <= n % count and 1 or 0)
    folds[i] = { first, first + size - 1 }
    first = first + size
  end
  return folds
end

--- Runs the whole grid with f; gives the correct predictions per setting, and the seconds that it
-- took.
local function search(f, settings, folds)
  local tasks = {}
  for _, setting in ipairs(settings) do
    for _, fold in ipairs(folds) do tasks[#tasks + 1] = { setting.p, setting.k, fold[1], fold[2] } end
  end
  local started = tidepool.now()
  local correct = {}
  for i, n in f:starmap(tasks) do
    local s = math.floor((i - 1) / #folds) + 1
    correct[s] = (correct[s] or 0) + n
  end
  return correct, tidepool.now() - started
end

app:main {
  args = {
    k = { { 1, 3, 5 }, "how many neighbours vote" },
    p = { { 1, 2 }, "the distance: 1 sums the differences, 2 their squares" },
    folds = { 5, "in how many parts the digits are cut" },
  },
} (function(args)
  local settings = {}
  for _, p in ipairs(args.p) do
    for _, k in ipairs(args.k) do settings[#settings + 1] = { p = p, k = k } end
  end
  local folds = folds_of(#labels, args.folds)
  local correct, seconds = search(evaluate, settings, folds)
  local _, alone = search(evaluate:with { concurrency_limit = 1 }, settings, folds)

  print " p   k  correct  accuracy"
  local best = 1
  for s, setting in ipairs(settings) do
    print(("%2g %3d  %7d   %.4f"):format(setting.p, setting.k, correct[s], correct[s] / #labels))
    if correct[s] > correct[best] then best = s end
  end
  print(("best: p = %g, k = %d with %d of %d"):format(settings[best].p, settings[best].k, correct[best], #labels))
  print(("%d tasks in %.2f s on %d workers, %.2f s on one: %.2f times as fast"):format(#settings * #folds, seconds, tidepool.workers(),
    alone, alone / seconds))
end)
